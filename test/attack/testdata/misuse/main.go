// Command misuse is a runtime process that speaks the Runtime API as no runtime does.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

const root = "/2018-06-01/runtime/"

var api = os.Getenv("AWS_LAMBDA_RUNTIME_API")

func main() {
	if err := serve(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// event says what to do; Raw are requests to send as they are.
type event struct {
	Do  string
	N   int
	Raw []string
}

// invocation is what the Runtime API gave out.
type invocation struct {
	id   string
	body []byte
}

// serve answers invocations. before is the one before, and found what an attack between two of them found.
func serve() error {
	var before string
	var found any
	for {
		var inv invocation
		var err error
		if inv, found, err = next(found); err != nil {
			return err
		}
		var e event
		if err := json.Unmarshal(inv.body, &e); err != nil {
			return err
		}
		if answer, answered := run(e, inv, before, found); !answered {
			post("invocation/"+inv.id+"/response", answer)
		}
		before, found = inv.id, nil
		if e.Do == "two next" {
			found = "pending"
		}
	}
}

// next asks for an invocation, twice at a time if an attack is pending: the different invocations that it was given are what it found.
func next(pending any) (invocation, any, error) {
	if pending == nil {
		inv, status, err := get()
		if err == nil && status != 200 {
			err = fmt.Errorf("next: status %d", status)
		}
		return inv, nil, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var given invocation
	ids := make(map[string]bool)
	for range 2 {
		wg.Go(func() {
			inv, status, _ := get() // status 0 tells of an error
			mu.Lock()
			defer mu.Unlock()
			if status == 200 {
				given = inv
				ids[inv.id] = true
			}
		})
	}
	wg.Wait()
	return given, len(ids), nil
}

func get() (invocation, int, error) {
	res, err := http.Get("http://" + api + root + "invocation/next")
	if err != nil {
		return invocation{}, 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return invocation{res.Header.Get("Lambda-Runtime-Aws-Request-Id"), body}, res.StatusCode, err
}

// post returns the status, 0 if there was no answer.
func post(path string, v any) int {
	body, err := json.Marshal(v)
	if err != nil {
		return 0
	}
	res, err := http.Post("http://"+api+root+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// run does what an event says, and returns the answer, unless it has been sent.
func run(e event, inv invocation, before string, found any) (answer any, answered bool) {
	own := "invocation/" + inv.id
	switch e.Do {
	case "found":
		return found, false
	case "answer for the one before":
		return []int{post("invocation/"+before+"/response", "stolen"), post("invocation/"+before+"/error", "stolen")}, false
	case "guess":
		return guess(e.N), false
	case "twice":
		post(own+"/response", "first")
		fmt.Println(post(own+"/response", "second"), post(own+"/error", "third"))
		return nil, true
	case "init again":
		return []int{post("init/error", "x"), post("restore/error", "x")}, false
	case "raw":
		return raw(e.Raw), false
	case "connections":
		return connections(e.N), false
	case "endless":
		flood(own)
		return nil, true
	case "slow":
		drip(own)
		return nil, true
	}
	return e.Do, false
}

// guess answers invocations that are another's, if anybody's.
func guess(n int) map[int]int {
	statuses := make(map[int]int)
	for range n {
		var b [16]byte
		rand.Read(b[:])
		id := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
		statuses[post("invocation/"+id+"/response", "stolen")]++
	}
	return statuses
}

// raw sends each request on a connection of its own and returns the status lines of all that was answered, until the connection was
// closed or nothing came for a while.
func raw(requests []string) [][]string {
	var all [][]string
	for _, r := range requests {
		statuses := []string{}
		c, err := net.Dial("tcp", api)
		if err != nil {
			return append(all, []string{err.Error()})
		}
		io.WriteString(c, r) // cut off when the server closes
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		lines := bufio.NewScanner(c)
		for lines.Scan() {
			if status, ok := strings.CutPrefix(lines.Text(), "HTTP/1.1 "); ok {
				statuses = append(statuses, status)
			}
		}
		c.Close()
		all = append(all, statuses)
	}
	return all
}

// connections opens n at a time, says nothing on them, and returns how many there are.
func connections(n int) int {
	var open []net.Conn
	for range n {
		c, err := net.DialTimeout("tcp", api, time.Second)
		if err != nil {
			break
		}
		open = append(open, c)
	}
	for _, c := range open {
		c.Close()
	}
	return len(open)
}

// flood answers without an end.
func flood(path string) {
	c, err := net.Dial("tcp", api)
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "POST %s%s/response HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", root, path)
	chunk := []byte("10000\r\n" + strings.Repeat("x", 1<<16) + "\r\n")
	for {
		if _, err := c.Write(chunk); err != nil {
			return
		}
	}
}

// drip answers one byte at a time, and never the last.
func drip(path string) {
	c, err := net.Dial("tcp", api)
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "POST %s%s/response HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n", root, path)
	for {
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
