package redtask

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// authority is a CA of a test's own, with its files.
type authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	dir         string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.certificate, a.key = a.issue("ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: "a CA of " + t.Name()}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// issue makes a certificate, signed by the CA or, for the CA, by itself, and writes NAME.crt and NAME.key.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.certificate != nil {
		parent, signer = a.certificate, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(a.t, err)
	encodedKey, err := x509.MarshalECPrivateKey(key)
	require.NoError(a.t, err)
	a.write(name+".crt", "CERTIFICATE", der)
	a.write(name+".key", "EC PRIVATE KEY", encodedKey)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(a.t, err)
	return certificate, key
}

func (a *authority) write(file, kind string, der []byte) {
	a.t.Helper()
	var text bytes.Buffer
	require.NoError(a.t, pem.Encode(&text, &pem.Block{Type: kind, Bytes: der}))
	require.NoError(a.t, os.WriteFile(a.file(file), text.Bytes(), 0o600))
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// trust is the configuration of a client that trusts this CA, and shows the certificate of that name if there is one.
func (a *authority) trust(name string) *tls.Config {
	a.t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AddCert(a.certificate)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(a.file(name+".crt"), a.file(name+".key"))
		require.NoError(a.t, err)
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// tlsServer answers over TLS only; auth says whether clients must have certificates: yes or no.
func tlsServer(t *testing.T, a *authority, auth string) *redistest.Server {
	t.Helper()
	a.issue("server", &x509.Certificate{Subject: pkix.Name{CommonName: "redis"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	a.issue("client", &x509.Certificate{
		Subject: pkix.Name{CommonName: "client"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return redistest.StartTLS(t, a.trust("client"), "--tls-cert-file", a.file("server.crt"), "--tls-key-file", a.file("server.key"),
		"--tls-ca-cert-file", a.file("ca.crt"), "--tls-auth-clients", auth)
}

// over is the server, asked with this configuration by a user; "" is the default one.
func over(t *testing.T, server *redistest.Server, config *tls.Config, user string) *env {
	t.Helper()
	options := &redis.Options{Addr: server.Addr, TLSConfig: config, MaxRetries: -1}
	if user != "" {
		options.Username, options.Password = user, password(t, user)
	}
	rdb := redis.NewClient(options)
	t.Cleanup(func() { _ = rdb.Close() })
	return &env{rdb: rdb, prefix: DefaultPrefix, log: &logBuffer{}}
}

// The server takes TLS and named users only: so each connection has both, also the one that waits for tasks.
func TestTLS(t *testing.T) {
	t.Parallel()
	for auth, certificate := range map[string]string{"no": "", "yes": "client"} {
		t.Run("client certificates: "+auth, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t)
			server := tlsServer(t, a, auth)
			admin := over(t, server, a.trust("client"), "")
			for _, line := range userLines(t, false) {
				admin.do(t, line...)
			}
			admin.do(t, "ACL", "SETUSER", "default", "resetpass", ">no longer open")
			config := a.trust(certificate)
			v, idle := newVersions(), make(chan string, 1000)
			worker := over(t, server, config, "worker")
			worker.runner(t, tasksOf(v, newBlocker()), func(o *RunnerOptions) {
				o.hooks.idle = func(queue string) { idle <- queue }
			})
			receive(t, "it waits for tasks", idle)
			eventually(t, "a connection of the worker blocks", func() bool {
				for client := range strings.Lines(admin.do(t, "CLIENT", "LIST").(string)) {
					if strings.Contains(client, "cmd=blmove") && strings.Contains(client, "user=worker") {
						return true
					}
				}
				return false
			})
			control(t, over(t, server, config, "producer").client(t), v)
			require.False(t, worker.log.has("level=WARN"), worker.log)
		})
	}
}

// What is wrong with the certificates stands in the client's error and in the runner's log.
func TestTLSRefused(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server := tlsServer(t, a, "yes")
	for name, c := range map[string]struct {
		config *tls.Config
		says   string
	}{
		"another CA":            {newAuthority(t).trust(""), "certificate signed by unknown authority"},
		"another name":          {&tls.Config{RootCAs: a.trust("").RootCAs, ServerName: "elsewhere", MinVersion: tls.VersionTLS12}, "wanted to match elsewhere"},
		"no client certificate": {a.trust(""), "certificate required"},
		"no TLS":                {nil, "EOF|reset by peer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := over(t, server, c.config, "")
			_, err := e.client(t).Start(testContext(t), "test/block", nil)
			require.Error(t, err)
			require.Regexp(t, c.says, err.Error())
			runner, err := NewRunner(e.rdb, blockRegistry(newBlocker()), RunnerOptions{Logger: e.logger()})
			require.NoError(t, err)
			require.NoError(t, runner.Start(t.Context()))
			told := regexp.MustCompile("the runner takes no tasks yet.*(" + c.says + ")")
			eventually(t, "the log says so", func() bool { return told.MatchString(e.log.String()) })
			require.NoError(t, shutdown(t, runner))
		})
	}
}
