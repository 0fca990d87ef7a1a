// Package authtest runs the real service for tests: one `hitkeep-auth dev` for a test binary,
// with a Postgres of its own and demo data, and any number of servers on its database.
package authtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Started within this time even in a debug build on a machine that is busy.
const startTimeout = 3 * time.Minute

// Demo is what `hitkeep-auth dev --json` prints.
type Demo struct {
	Listen      string `json:"listen"`
	HTTPListen  string `json:"http_listen"`
	DatabaseURL string `json:"database_url"`
	Callers     struct {
		Introspect, Manage, Directory, Audit, Replicate string
	} `json:"callers"`
	PersonalClient DemoClient `json:"personal_client"`
	TeamClient     DemoClient `json:"team_client"`
	Directory      struct {
		Users struct{ Alice, Bob string }
		Team  string
		Sites []string
	} `json:"directory"`

	binary string
	stop   func()
}

// DemoClient is an API client of the demonstration.
type DemoClient struct {
	ID, Token string
}

var shared struct {
	sync.Mutex
	demo *Demo
}

// Main runs the tests of a binary, and stops afterwards what they have started.
func Main(m *testing.M) {
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.demo != nil {
		shared.demo.stop()
	}
	os.Exit(code)
}

// Service is the demonstration that all tests share. It is started for the first one.
func Service(t testing.TB) *Demo {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.demo == nil {
		demo, err := startDemo()
		if err != nil {
			t.Fatal(err)
		}
		shared.demo = demo
	}
	return shared.demo
}

// NewService starts a demonstration for one test, which may do to its data what it likes.
func NewService(t testing.TB) *Demo {
	t.Helper()
	demo, err := startDemo()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(demo.stop)
	return demo
}

func startDemo() (*Demo, error) {
	binary, err := findBinary()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "hitkeep-auth-go")
	if err != nil {
		return nil, err
	}
	remove := func() { _ = os.RemoveAll(folder) }
	// Postgres refuses to run as root, so that another user may have to get there.
	if err := os.Chmod(folder, 0o711); err != nil {
		remove()
		return nil, err
	}
	demo := &Demo{binary: binary}
	cmd := exec.Command(binary, "dev", "--json", "--listen", "127.0.0.1:0",
		"--http-listen", "127.0.0.1:0", "--data-dir", filepath.Join(folder, "data"))
	p, err := start(cmd, func(out, _ *bufio.Reader) error { return json.NewDecoder(out).Decode(demo) })
	if err != nil {
		remove()
		return nil, fmt.Errorf("hitkeep-auth dev: %w", err)
	}
	demo.stop = func() {
		p.interrupt()
		remove()
	}
	return demo, nil
}

// findBinary is the one that HITKEEP_AUTH_BIN names, or what cargo builds.
var findBinary = sync.OnceValues(func() (string, error) {
	if binary := os.Getenv("HITKEEP_AUTH_BIN"); binary != "" {
		return binary, nil
	}
	_, here, _, _ := runtime.Caller(0)
	cargo := exec.Command("cargo", "build", "--quiet", "--bin", "hitkeep-auth", "--message-format=json")
	cargo.Dir = filepath.Join(filepath.Dir(here), "../../../..")
	cargo.Stderr = os.Stderr
	out, err := cargo.Output()
	if err != nil {
		return "", fmt.Errorf("there is no HITKEEP_AUTH_BIN, and cargo build failed: %w", err)
	}
	messages := json.NewDecoder(bytes.NewReader(out))
	for {
		var message struct {
			Executable string
			Target     struct{ Name string }
		}
		if err := messages.Decode(&message); err != nil {
			return "", fmt.Errorf("cargo build names no executable: %w", err)
		}
		if message.Executable != "" && message.Target.Name == "hitkeep-auth" {
			return message.Executable, nil
		}
	}
})

// process is a program that was started.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// start runs a program until it is ready. The program ends with this one.
func start(cmd *exec.Cmd, ready func(out, log *bufio.Reader) error) (*process, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	logRead, logWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = logWrite
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread for the end of the parent.
		runtime.LockOSThread()
		tieToParent(cmd)
		err := cmd.Start()
		_ = logWrite.Close()
		started <- err
		if err != nil {
			return
		}
		_, _ = cmd.Process.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	var log bytes.Buffer
	outReader := bufio.NewReader(out)
	logReader := bufio.NewReader(io.TeeReader(logRead, &limited{&log}))
	isReady := make(chan error, 1)
	go func() {
		isReady <- ready(outReader, logReader)
		// Nothing it says later may block it.
		go func() { _, _ = io.Copy(io.Discard, outReader) }()
		_, _ = io.Copy(io.Discard, logReader)
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case err = <-isReady:
	case <-timeout.C:
		err = errors.New("it was not ready in time")
	}
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("%w\n%s", err, log.String())
	}
	return p, nil
}

// limited keeps what a program says until it is ready, and not all that it ever says.
type limited struct{ *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len() < 1<<16 {
		_, _ = l.Buffer.Write(p)
	}
	return len(p), nil
}

func (p *process) interrupt() {
	_ = p.cmd.Process.Signal(os.Interrupt)
	<-p.ended
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Server is a server of the demonstration's database.
type Server struct {
	// Address is where it listens.
	Address string
	process *process
}

// Serve starts a server with further options. It is killed at the end of the test.
func Serve(t testing.TB, options ...string) *Server {
	t.Helper()
	d := Service(t)
	s := &Server{}
	arguments := []string{"serve", "--database-url", d.DatabaseURL, "--listen", "127.0.0.1:0",
		"--log-format", "json"}
	cmd := exec.Command(d.binary, append(arguments, options...)...)
	p, err := start(cmd, func(_, log *bufio.Reader) error {
		for {
			line, err := log.ReadBytes('\n')
			if err != nil {
				return fmt.Errorf("it ended: %w", err)
			}
			var entry struct{ Message, Address string }
			// Other lines are for people.
			_ = json.Unmarshal(line, &entry)
			if entry.Address != "" {
				s.Address = entry.Address
			}
			if s.Address != "" && entry.Message == "introspection serves" {
				return nil
			}
		}
	})
	if err != nil {
		t.Fatalf("hitkeep-auth serve: %v", err)
	}
	s.process = p
	t.Cleanup(s.Kill)
	return s
}

// Kill ends the server at once, without a farewell to its connections.
func (s *Server) Kill() { s.process.kill() }

// Run runs one of the binary's commands on the demonstration's database.
func Run(t testing.TB, arguments ...string) {
	t.Helper()
	_ = Output(t, arguments...)
}

// Output is [Run], and what the command prints.
func Output(t testing.TB, arguments ...string) string {
	t.Helper()
	d := Service(t)
	cmd := exec.Command(d.binary, append(arguments, "--database-url", d.DatabaseURL)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("hitkeep-auth %s: %v\n%s", arguments[0], err, log.String())
	}
	return string(out)
}
