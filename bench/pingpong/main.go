// Command pingpong is a function that measures what the Runtime API's two requests for each invocation cost at least in its sandbox: a
// process of its own answers them with bytes that were made before, as little as a server can do.
package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
)

const address = "127.0.0.1:7001"

func main() {
	if len(os.Args) > 1 {
		log.Fatal(serve())
	}
	cmd := exec.Command(os.Args[0], "serve")
	ready, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(ready).ReadString('\n')
	}
	if err != nil {
		log.Fatal(err)
	}
	lambda.Start(measure)
}

// serve answers one connection.
func serve() error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	io.WriteString(os.Stdout, "ready\n")
	body := strings.Repeat("x", 1024)
	next := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	accepted := []byte("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		answer := next
		if bytes.HasPrefix(buf[:n], []byte("POST")) {
			answer = accepted
		}
		if _, err := conn.Write(answer); err != nil {
			return err
		}
	}
}

// measure makes so many pairs of requests and returns what one took, in microseconds.
func measure(ctx context.Context, pairs int) (float64, error) {
	body := bytes.Repeat([]byte("x"), 1024)
	begun := time.Now()
	for range pairs {
		if err := request(ctx, http.MethodGet, nil); err != nil {
			return 0, err
		}
		if err := request(ctx, http.MethodPost, body); err != nil {
			return 0, err
		}
	}
	return float64(time.Since(begun).Microseconds()) / float64(pairs), nil
}

func request(ctx context.Context, method string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+"/2018-06-01/runtime/invocation", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
