package remote

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"kiln/catalog"
)

// maxReport bounds a report in bytes: more configurations than an account has concurrency for.
const maxReport = 8 << 20

// Report tells the server's process of all provisioned concurrency.
func (c *Client) Report(ctx context.Context, all []catalog.ProvisionStatus) error {
	text, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	body := append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	return c.call(ctx, opReport, "", body, func(r *bufio.Reader) error {
		_, err := readEvent(r)
		return err
	})
}

// take reads a report, and answers it with kindSynced.
func (s *Server) take(r io.Reader, w *bufio.Writer) error {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > maxReport {
		return fmt.Errorf("%w: a report of %d bytes", errProtocol, n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return err
	}
	var all []catalog.ProvisionStatus
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("%w: a report: %w", errProtocol, err)
	}
	s.reported(all)
	return writeEvent(w, kindSynced, catalog.Record{})
}
