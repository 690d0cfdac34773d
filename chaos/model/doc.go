// Package model compares the store with a small model of it. It makes random calls in random order, on miniredis and on real Redis, and
// sends some of them again; after each call every key, every event and the answer must be as the model says. A race that nobody thought of shows
// as a difference, shrunk to the fewest calls that lead to it.
package model
