package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	frames := map[string]struct {
		h    Header
		body []byte
	}{
		"no body":    {Header{Type: Hello}, nil},
		"short body": {Header{Type: Invoke, RequestID: "a", DeadlineMs: 1, FunctionARN: "arn", ClientContext: `{"a":"\n"}`}, []byte("{}")},
		"start":      {Header{Type: Start, Args: []string{"/a", ""}, Env: []string{"K=V"}, UID: 993, GID: 990, Direct: true}, nil},
		"long body":  {Header{Type: Response, RequestID: "a"}, bytes.Repeat([]byte("x"), 6<<20)},
	}
	for name, f := range frames {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := Write(&b, f.h, f.body); err != nil {
				t.Fatal(err)
			}
			appended, err := Append(nil, f.h, f.body)
			if err != nil || !bytes.Equal(appended, b.Bytes()) {
				t.Fatalf("Append and Write differ (%v)", err)
			}
			h, body, err := Read(&b, len(f.body))
			if err != nil || !reflect.DeepEqual(h, f.h) || !bytes.Equal(body, f.body) {
				t.Errorf("read %+v, %d bytes, %v; wrote %+v, %d bytes", h, len(body), err, f.h, len(f.body))
			}
			if _, _, err := Read(&b, 0); err != io.EOF {
				t.Errorf("after the last frame: %v, want io.EOF", err)
			}
		})
	}
}

type countingWriter struct{ calls int }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.calls++
	return len(p), nil
}

func TestAShortFrameIsOneWrite(t *testing.T) {
	for size, want := range map[int]int{0: 1, maxCopied: 1, maxCopied + 1: 2} {
		var w countingWriter
		if err := Write(&w, Header{Type: Response}, make([]byte, size)); err != nil || w.calls != want {
			t.Errorf("body of %d bytes: %d writes (%v), want %d", size, w.calls, err, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	prefix := func(head, body uint32) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, head), body)
	}
	whole, err := Append(nil, Header{Type: Ready}, []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"half a prefix", whole[:5], io.ErrUnexpectedEOF},
		{"half a header", whole[:12], io.ErrUnexpectedEOF},
		{"half a body", whole[:len(whole)-1], io.ErrUnexpectedEOF},
		{"prefix alone", whole[:8], io.ErrUnexpectedEOF},
		{"long body", prefix(2, 5), ErrTooLarge},
		{"longest body", prefix(2, 0xffffffff), ErrTooLarge},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if _, _, err := Read(iotest.OneByteReader(bytes.NewReader(row.in)), 4); !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
		})
	}
	for name, in := range map[string][]byte{
		"a header that is not JSON": append(prefix(1, 0), '{'),
		"a long header":             append(prefix(MaxHeader+1, 0), bytes.Repeat([]byte(" "), MaxHeader+1)...),
		"lengths that overflow":     prefix(0xffffffff, 0xffffffff),
	} {
		if _, _, err := Read(bytes.NewReader(in), 4); err == nil || errors.Is(err, ErrTooLarge) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestWriteRefusesALongHeader(t *testing.T) {
	var w countingWriter
	err := Write(&w, Header{Type: Error, ErrorType: strings.Repeat("x", MaxHeader)}, nil)
	if err == nil || w.calls != 0 {
		t.Errorf("got %v after %d writes, want an error before any", err, w.calls)
	}
}

// FuzzRead feeds Read what a hostile guest may send: it never reads beyond its bounds, and what it reads can be written again.
func FuzzRead(f *testing.F) {
	for _, h := range []Header{{Type: Hello}, {Type: Error, RequestID: "a", ErrorType: "Runtime.Unknown"}} {
		b, err := Append(nil, h, []byte(`{"a":1}`))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 1 << 10
		h, body, err := Read(bytes.NewReader(in), limit)
		if err != nil {
			return
		}
		if len(body) > limit {
			t.Fatalf("body of %d bytes", len(body))
		}
		b, err := Append(nil, h, body)
		if err != nil {
			return // escaping made the header longer than it came
		}
		h2, body2, err := Read(bytes.NewReader(b), limit)
		if err != nil || !reflect.DeepEqual(h, h2) || !bytes.Equal(body, body2) {
			t.Fatalf("%+v became %+v (%v)", h, h2, err)
		}
	})
}
