package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln"
	"kiln/control/account"
	"kiln/frontend"
	"kiln/invoke/assignment"
	"kiln/pebblestore"
	"kiln/worker/network"
)

// options are what `kiln serve` is told.
type options struct {
	// role is the part of a node that the process is, "" for all.
	role string
	// name is a worker's.
	name      string
	listen    string
	admin     string
	endpoint  string
	data      string
	masterKey string
	region    string
	auth      string
	logFormat string
	// runtimes are ID=PREFIX.
	runtimes []string
	egress   string
	// allow are ranges of addresses.
	allow    []string
	memoryMB int
	// poolMB is for sandboxes that wait for functions; negative means a part of memoryMB.
	poolMB int
	// idle and age are how long an environment may be idle, and live.
	idle, age time.Duration
	// queue and queueWait are how many invocations may wait for room, and for how long.
	queue     int
	queueWait time.Duration
	drain     time.Duration
	// requests is how many an account may make in a second other than invocations.
	requests int
	// concurrency is for accounts that accounts, ACCOUNT=N, does not name.
	concurrency int
	accounts    []string
	// starts is how many environments of a function may be started in startsPer.
	starts    int
	startsPer time.Duration
	first     account.Choice
	path      []string
	// sandboxes makes the engine.
	sandboxes newEngine
}

// minLife is the least that an environment may be idle and live: with less, starting would be all that a node does.
const minLife = time.Second

// maxRequests is more than a machine can answer.
const maxRequests = 1_000_000

// minWait is about what it takes to end one environment and start another.
const minWait = 100 * time.Millisecond

const (
	authSigV4 = "sigv4"
	authNone  = "none"

	egressNone     = "none"
	egressInternet = "internet"
)

func serveCommand(sandboxes newEngine) *cobra.Command {
	o := options{sandboxes: sandboxes}
	c := &cobra.Command{
		Use: "serve", Short: "Run a node", Args: cobra.NoArgs,
		Long: "Run a node, with all roles or with one, until SIGTERM or Ctrl-C.\n\n" +
			"The first start creates an account and an access key, and writes the key to DIR/credentials in the form of the AWS shared\n" +
			"credentials file. KILN_ACCOUNT_ID, KILN_ACCESS_KEY_ID and KILN_SECRET_ACCESS_KEY choose them.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.first = account.Choice{
				Account: kiln.AccountID(os.Getenv("KILN_ACCOUNT_ID")), AccessKeyID: os.Getenv("KILN_ACCESS_KEY_ID"),
				Secret: os.Getenv("KILN_SECRET_ACCESS_KEY"),
			}
			if (o.role == roleControl || o.role == roleWorker) && !cmd.Flags().Changed("admin") {
				o.admin = "" // the address is the data role's
			}
			o.path = filepath.SplitList(os.Getenv("PATH"))
			if err := o.validate(); err != nil {
				return err
			}
			var err error
			if o.data, err = filepath.Abs(o.data); err != nil {
				return err
			}
			if err := refuseUnfit(o); err != nil {
				return err
			}
			err = serve(cmd.Context(), o, o.logger())
			if errors.Is(err, pebblestore.ErrLocked) {
				return fmt.Errorf("the data directory %s is in use by another kiln", o.data)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.role, "role", "", "run one part of a node: control, data (serves clients) or worker (runs functions); empty means all")
	f.StringVar(&o.name, "name", "", "name of a worker, with --role worker")
	f.StringVar(&o.listen, "listen", "127.0.0.1:9600", "address of the API")
	f.StringVar(&o.admin, "admin", "127.0.0.1:9601", "address of /metrics and /healthz, where nobody is authenticated; empty means none")
	f.StringVar(&o.endpoint, "endpoint", "", "`URL` under which clients reach the API, for the URLs in answers; empty means the address it listens on")
	f.StringVar(&o.data, "data", "/var/lib/kiln", "directory of everything that is kept")
	f.StringVar(&o.masterKey, "master-key", "", masterKeyUsage)
	f.StringVar(&o.region, "region", "us-east-1", "AWS region that the node answers for")
	f.StringVar(&o.auth, "auth", authSigV4, "sigv4, or none, which only a loopback address allows")
	f.StringVar(&o.logFormat, "log-format", "text", "form of the log on standard error: text or json")
	f.StringArrayVar(&o.runtimes, "runtime", nil, "add a runtime: `ID=PREFIX`, the interpreter being below PREFIX/bin; may be repeated")
	f.StringVar(&o.egress, "egress", egressInternet, "what functions reach: internet, or none; AWS's API, which the node serves, in either case")
	f.StringArrayVar(&o.allow, "egress-allow", nil, "let functions reach a private range too, such as 10.1.0.0/16: `CIDR`; may be repeated")
	f.IntVar(&o.memoryMB, "memory", 0, "memory for execution environments in MB; 0 means four fifths of the machine's")
	f.IntVar(&o.poolMB, "pool", -1, "memory in MB, of --memory, for sandboxes that wait for functions as long as functions leave it; negative means an eighth")
	f.DurationVar(&o.idle, "idle-timeout", 0, "how long an execution environment may be idle before it ends; 0 means for as long as a call is likely enough")
	f.DurationVar(&o.age, "max-age", assignment.DefaultMaxAge, "how old an execution environment may become before it ends, once idle; up to a tenth less")
	o.concurrencyFlags(c)
	f.IntVar(&o.queue, "queue", assignment.DefaultMaxWaiting, "how many invocations may wait while there is no memory for their environments")
	f.DurationVar(&o.queueWait, "queue-wait", assignment.DefaultMaxWait, "how long one may wait before it is refused")
	f.IntVar(&o.requests, "api-rate", frontend.DefaultRequests, "how many requests a second an account may make other than invocations; ten times as many at once")
	f.DurationVar(&o.drain, "drain", 30*time.Second, "how long invocations that run at SIGTERM may take")
	return c
}

// validate returns every fault at once.
func (o *options) validate() error {
	var faults []error
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		faults = append(faults, fmt.Errorf("--listen %s: %w", o.listen, err))
	}
	if _, _, err := net.SplitHostPort(o.admin); o.admin != "" && err != nil {
		faults = append(faults, fmt.Errorf("--admin %s: %w", o.admin, err))
	}
	if o.auth != authSigV4 && o.auth != authNone {
		faults = append(faults, fmt.Errorf("--auth %s: want sigv4 or none", o.auth))
	}
	if ip := net.ParseIP(host); o.auth == authNone && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		faults = append(faults, fmt.Errorf("--auth none: anybody who reaches %s could run code here; listen on a loopback address", o.listen))
	}
	if u, err := url.Parse(o.endpoint); o.endpoint != "" && (err != nil || u.Scheme == "" || u.Host == "") {
		faults = append(faults, fmt.Errorf("--endpoint %s: want a URL such as http://host:9600", o.endpoint))
	}
	if o.logFormat != "text" && o.logFormat != "json" {
		faults = append(faults, fmt.Errorf("--log-format %s: want text or json", o.logFormat))
	}
	if o.drain <= 0 {
		faults = append(faults, fmt.Errorf("--drain %v: want a time above 0", o.drain))
	}
	if o.requests < 1 || o.requests > maxRequests {
		faults = append(faults, fmt.Errorf("--api-rate %d: want 1 to %d", o.requests, maxRequests))
	}
	if o.idle != 0 && o.idle < minLife {
		faults = append(faults, fmt.Errorf("--idle-timeout %v: want 0, or %v or more", o.idle, minLife))
	}
	if o.queue < 1 {
		faults = append(faults, fmt.Errorf("--queue %d: want 1 or more", o.queue))
	}
	if o.queueWait < minWait {
		faults = append(faults, fmt.Errorf("--queue-wait %v: want %v or more", o.queueWait, minWait))
	}
	if o.age < minLife {
		faults = append(faults, fmt.Errorf("--max-age %v: want %v or more", o.age, minLife))
	}
	if o.memoryMB < 0 {
		faults = append(faults, fmt.Errorf("--memory %d: want a number of MB", o.memoryMB))
	}
	if o.egress != egressNone && o.egress != egressInternet {
		faults = append(faults, fmt.Errorf("--egress %s: want internet or none", o.egress))
	}
	faults = append(faults, o.validateAllow()...)
	faults = append(faults, o.validateConcurrency()...)
	faults = append(faults, o.validateRole()...)
	for _, r := range o.runtimes {
		if id, prefix, ok := strings.Cut(r, "="); !ok || id == "" || !filepath.IsAbs(prefix) {
			faults = append(faults, fmt.Errorf("--runtime %s: want ID=PREFIX with an absolute path", r))
		}
	}
	return errors.Join(faults...)
}

func (o *options) validateAllow() []error {
	var faults []error
	if o.egress == egressNone && len(o.allow) > 0 {
		faults = append(faults, errors.New("--egress-allow: nothing is reached with --egress none"))
	}
	for _, a := range o.allow {
		if _, err := netip.ParsePrefix(a); err != nil {
			faults = append(faults, fmt.Errorf("--egress-allow %s: want a range such as 10.1.0.0/16", a))
		}
	}
	if err := network.ValidateAllow(o.allowed()); err != nil {
		faults = append(faults, fmt.Errorf("--egress-allow: %w", err))
	}
	return faults
}

// allowed are the private ranges that functions may reach.
func (o *options) allowed() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range o.allow {
		if p, err := netip.ParsePrefix(a); err == nil { // validated
			all = append(all, p)
		}
	}
	return all
}

// prefixes are the runtimes by hand, by identifier.
func (o *options) prefixes() map[string]string {
	m := make(map[string]string)
	for _, r := range o.runtimes {
		id, prefix, _ := strings.Cut(r, "=") // validated
		m[id] = prefix
	}
	return m
}

func (o *options) logger() *slog.Logger {
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
