package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"kiln"
	"kiln/api"
	apiremote "kiln/api/remote"
	catalogremote "kiln/catalog/remote"
	"kiln/control/deploy"
	"kiln/frontend"
	"kiln/internal/local"
)

// The roles that a process may have. Without one it has all.
const (
	roleControl = "control"
	roleData    = "data"
)

// The sockets of the control plane, below the data directory: one for the catalog, one for the operations that change it.
const (
	catalogSocket    = "catalog.sock"
	operationsSocket = "operations.sock"
)

func (o *options) validateRole() []error {
	var faults []error
	if o.role != "" && o.role != roleControl && o.role != roleData {
		faults = append(faults, fmt.Errorf("--role %s: want control or data", o.role))
	}
	if _, port, _ := net.SplitHostPort(o.listen); o.role == roleControl && o.endpoint == "" && port == "0" {
		faults = append(faults, errors.New("--role control: URLs of code need the port of the data role's --listen, or --endpoint"))
	}
	if o.role == roleData && o.auth == authNone {
		faults = append(faults, errors.New("--role data: only --auth sigv4 tells whose requests are"))
	}
	return faults
}

func (n *node) socket(name string) string { return filepath.Join(n.data, name) }

// newControl returns the control plane, which is in this process.
func (n *node) newControl(urls *frontend.CodeURL) *deploy.Service {
	return deploy.New(deploy.Config{
		Store: n.store, Blobs: n.blobs, Region: kiln.Region(n.region), CodeURL: urls.URL, Concurrency: n.limits(), Log: n.log,
	})
}

// control returns the operations of the control plane and what runs it: here, or in the process that has its role.
func (n *node) control(urls *frontend.CodeURL) ([]api.Handler, func(context.Context) error) {
	if n.role != roleData {
		c := n.newControl(urls)
		return c.Handlers(), n.restarted("control plane", maxPause, c.Run).run
	}
	// Of a control plane without a store only what its operations take is asked.
	return apiremote.Forward(n.socket(operationsSocket), deploy.New(deploy.Config{}).Handlers()),
		func(ctx context.Context) error { <-ctx.Done(); return nil }
}

// serveControl runs the control plane alone, for the process that has the other role.
func (n *node) serveControl(ctx context.Context) error {
	urls, err := n.codeURLs()
	if err != nil {
		return err
	}
	// The store is open, so that this is the only process that listens there.
	records, err := local.Listen(n.socket(catalogSocket))
	if err != nil {
		return err
	}
	operations, err := local.Listen(n.socket(operationsSocket))
	if err != nil {
		_ = records.Close() // nothing was said over it
		return err
	}
	c := n.newControl(urls)
	fmt.Printf("control plane in %s\n", n.data)
	return runLayers(ctx,
		n.restarted("control plane", maxPause, c.Run),
		layer{"catalog", catalogremote.NewServer(records, n.store, n.log).Run},
		layer{"operations", apiremote.NewServer(operations, c.Handlers(), n.log).Run},
	)
}
