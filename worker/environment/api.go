package environment

import (
	"io"
	"net"
	"os"

	"kiln/worker/tunnel"
)

// API takes connections that a function has opened to AWS's API. What comes over them is as hostile as what comes over any network.
type API interface {
	// Take serves a connection, or closes it if it cannot. It does not wait.
	Take(conn net.Conn)
}

// apiLine is the line that carries a function's connections.
type apiLine struct {
	conn net.Conn
	api  API
}

func openAPI(api API) (*apiLine, *os.File, error) {
	conn, guest, err := socketpair("api")
	if err != nil {
		return nil, nil, err
	}
	return &apiLine{conn, api}, guest, nil
}

// serve takes connections until the line ends, and returns when none is left. A guest that breaks the rules loses the line; the
// environment lives on without it.
func (l *apiLine) serve() {
	_ = tunnel.New(l.conn).Serve(func() (io.ReadWriteCloser, error) {
		ours, theirs := net.Pipe()
		l.api.Take(theirs)
		return ours, nil
	})
}
