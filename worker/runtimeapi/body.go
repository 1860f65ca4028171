package runtimeapi

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

const (
	// maxChunkLine bounds the line before a chunk.
	maxChunkLine = 256
	// maxDiscard is how much of a body that is too large is read on, so that a client that writes all before it reads gets
	// its answer and keeps its connection.
	maxDiscard = 64 << 20
)

// errTooLarge is returned by body.read when the body is longer than allowed. The rest of it is still unread.
var errTooLarge = errors.New("body exceeds its bound")

// body reads the body of one request, and nothing after it.
type body struct {
	r       *bufio.Reader
	chunked bool
	// left is what is unread of the body, or of the current chunk if it is chunked.
	left int64
	// err is what the next Read returns.
	err error
	// errorType and errorBody are the fields after a chunked body by which a runtime says that the function failed while it
	// answered. They are known when the body is read.
	errorType, errorBody string
}

func newBody(r *bufio.Reader, q *request) *body {
	if q.length < 0 {
		return &body{r: r, chunked: true}
	}
	return &body{r: r, left: q.length}
}

// read reads the whole body if it has at most limit bytes.
func (b *body) read(limit int) ([]byte, error) {
	if b.chunked {
		var buf bytes.Buffer
		_, err := buf.ReadFrom(io.LimitReader(b, int64(limit)+1))
		if err == nil && buf.Len() > limit {
			err = errTooLarge
		}
		return buf.Bytes(), err
	}
	if b.left > int64(limit) {
		return nil, errTooLarge
	}
	whole := make([]byte, b.left)
	_, err := io.ReadFull(b, whole)
	return whole, unexpected(err)
}

// discard reads what is left, and reports whether it came to the end.
func (b *body) discard() bool {
	_, err := io.CopyN(io.Discard, b, maxDiscard)
	return errors.Is(err, io.EOF)
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 && b.err == nil {
		b.err = b.nextChunk()
	}
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == nil && b.left == 0 && b.chunked {
		err = b.endChunk()
	}
	b.err = unexpected(err)
	return n, nil
}

// nextChunk reads the line before a chunk, or what follows the last one. It returns io.EOF at the end of the body.
func (b *body) nextChunk() error {
	if !b.chunked {
		return io.EOF
	}
	budget := maxChunkLine
	line, err := readLine(b.r, &budget)
	if err != nil {
		return unexpected(err)
	}
	if b.left, err = chunkLength(string(line)); err != nil {
		return err
	}
	if b.left > 0 {
		return nil
	}
	if err := readFields(b.r, maxHead, b.setTrailer); err != nil {
		return err
	}
	return io.EOF
}

// chunkLength parses the line before a chunk, ignoring extensions.
func chunkLength(line string) (int64, error) {
	digits, _, _ := strings.Cut(line, ";")
	n, err := strconv.ParseUint(strings.TrimRight(digits, " \t"), 16, 63)
	if err != nil {
		return 0, malformed("malformed chunk")
	}
	return int64(n), nil
}

// endChunk reads the line end after a chunk.
func (b *body) endChunk() error {
	budget := maxChunkLine
	line, err := readLine(b.r, &budget)
	if err != nil {
		return unexpected(err)
	}
	if len(line) > 0 {
		return malformed("malformed chunk")
	}
	return nil
}

func (b *body) setTrailer(name, value string) error {
	switch strings.ToLower(name) {
	case "lambda-runtime-function-error-type":
		b.errorType = value
	case "lambda-runtime-function-error-body":
		b.errorBody = value
	}
	return nil
}
