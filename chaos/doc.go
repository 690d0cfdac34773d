// Package chaos shows that no task is lost and none runs twice, whatever breaks.
package chaos
