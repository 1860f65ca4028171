package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"kiln/kilntest"
)

// boto3Caller calls a function with nothing configured. The boto3 of older Debian releases does not know AWS_ENDPOINT_URL.
const boto3Caller = `
import json, os, sys
sys.path.append('/usr/lib/python3/dist-packages')
import boto3, botocore
def handler(event, context):
    known = tuple(int(n) for n in botocore.__version__.split('.')[:2]) >= (1, 31)
    client = boto3.client('lambda', **({} if known else {'endpoint_url': os.environ['AWS_ENDPOINT_URL']}))
    out = client.invoke(FunctionName=event['Function'], Payload=json.dumps(event['Payload']))
    return json.load(out['Payload'])
`

func TestFunctionsInvokeOthersWithNothingConfigured(t *testing.T) {
	need(t, "/usr/lib/python3/dist-packages/boto3", "python3-boto3")
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "echo", Zip: python(t, echo)})
	for _, f := range []kilntest.Function{
		{Name: "python", Timeout: 30, MemoryMB: 1024, Zip: python(t, boto3Caller)},
		{Name: "go", Timeout: 30, Runtime: "provided.al2023", Handler: "bootstrap", Zip: kilntest.GoZip(t, "test/testdata/caller")},
	} {
		t.Run(f.Name, func(t *testing.T) {
			n.Deploy(t.Context(), f)
			for range 3 {
				if got := value[int](t, n, f.Name, `{"Function":"echo","Payload":7}`); got != 7 {
					t.Errorf("got %d", got)
				}
			}
			long := strings.Repeat("x", 1<<20)
			if got := value[string](t, n, f.Name, fmt.Sprintf(`{"Function":"echo","Payload":%q}`, long)); got != long {
				t.Errorf("of %d bytes %d came back", len(long), len(got))
			}
		})
	}
}

// keys are a function's credentials.
type keys struct{ ID, Secret, Token string }

const tellKeys = `
import os
def handler(event, context):
    return {'ID': os.environ['AWS_ACCESS_KEY_ID'], 'Secret': os.environ['AWS_SECRET_ACCESS_KEY'], 'Token': os.environ['AWS_SESSION_TOKEN']}
`

func (k keys) list(t *testing.T, n *kilntest.Node) error {
	t.Helper()
	_, err := n.Client().ListFunctions(t.Context(), &lambda.ListFunctionsInput{}, func(o *lambda.Options) {
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret, SessionToken: k.Token}, nil
		})
	})
	return err
}

func TestCredentialsEndWithTheirEnvironment(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "tell", Zip: python(t, tellKeys)})
	k := value[keys](t, n, "tell", `{}`)
	if !strings.HasPrefix(k.ID, "ASIA") {
		t.Errorf("key %s", k.ID)
	}
	if err := k.list(t, n); err != nil {
		t.Fatal(err)
	}
	wantCode(t, keys{k.ID, k.Secret, ""}.list(t, n), "UnrecognizedClientException")
	wantCode(t, keys{k.ID, k.Secret, k.Token + "x"}.list(t, n), "UnrecognizedClientException")
	wantCode(t, keys{k.ID, "wrong", k.Token}.list(t, n), "InvalidSignatureException")
	n.Deploy(t.Context(), kilntest.Function{Name: "ends", Zip: python(t, tellKeys+`
    
def ends(event, context):
    if event.get('end'): os._exit(1)
    return handler(event, context)
`), Handler: "index.ends"})
	k = value[keys](t, n, "ends", `{}`)
	fails(t, n, "ends", `{"end":true}`)
	n.Stop() // the environments have ended when it returns
	n.Restart()
	if strings.Contains(n.Output(), k.Secret) || strings.Contains(n.Output(), k.Token) {
		t.Error("credentials are in the log")
	}
	wantCode(t, k.list(t, n), "UnrecognizedClientException")
}

func TestAnEndedEnvironmentsCredentialsHaveExpired(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "ends", Timeout: 1, Zip: python(t, tellKeys+`
import time
def ends(event, context):
    if event.get('end'): time.sleep(60)
    return handler(event, context)
`), Handler: "index.ends"})
	k := value[keys](t, n, "ends", `{}`)
	if err := k.list(t, n); err != nil {
		t.Fatal(err)
	}
	fails(t, n, "ends", `{"end":true}`)
	// The caller has its answer before the environment is gone.
	deadline := time.Now().Add(10 * time.Second)
	err := k.list(t, n)
	for err == nil && time.Now().Before(deadline) {
		err = k.list(t, n)
	}
	wantCode(t, err, "ExpiredTokenException")
	contains(t, err.Error(), "The security token included in the request is expired")
}

// probe says what a function reaches.
const probe = `
import socket
def reach(host, port):
    try:
        with socket.create_connection((host, port), timeout=0.5) as s:
            return s.recv(100).decode() or 'connected'
    except Exception as e:
        return type(e).__name__
def handler(event, context):
    return {'%s:%d' % (h, p): reach(h, p) for h, p in event}
`

// reached are the answers of probe that are not errors.
func reached(t *testing.T, n *kilntest.Node, function string, targets ...string) map[string]string {
	t.Helper()
	var event [][2]any
	for _, target := range targets {
		host, port, err := net.SplitHostPort(target)
		if err != nil {
			t.Fatal(err)
		}
		event = append(event, [2]any{host, json.Number(port)})
	}
	text, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	got := value[map[string]string](t, n, function, string(text))
	for target, answer := range got {
		if strings.HasSuffix(answer, "Error") || answer == "timeout" || answer == "gaierror" {
			delete(got, target)
		}
	}
	return got
}

const port = 8080

func TestFunctionsReachTheInternetAndNothingElse(t *testing.T) {
	world := kilntest.Internet(t)
	kilntest.Listen(t, world, port)
	kilntest.Listen(t, nil, port)
	n := kilntest.Start(t, "--egress", "internet", "--egress-allow", "10.1.2.0/24")
	n.Deploy(t.Context(), kilntest.Function{Name: "probe", Timeout: 30, Zip: python(t, probe)})
	server, allowed := fmt.Sprintf("%s:%d", kilntest.ServerAddr, port), fmt.Sprintf("%s:%d", kilntest.PrivateAddr, port)
	api := strings.TrimPrefix(n.Endpoint, "http://")
	_, apiPort, err := net.SplitHostPort(api)
	if err != nil {
		t.Fatal(err)
	}
	targets := []string{server, allowed, api}
	for _, addr := range append(addresses(t), kilntest.CGNATAddr, kilntest.MetadataAddr, kilntest.AzureAddr, "169.254.169.253") {
		targets = append(targets, fmt.Sprintf("%s:%d", addr, port), net.JoinHostPort(addr, apiPort))
	}
	got := reached(t, n, "probe", targets...)
	if got[server] != kilntest.MachineAddr || got[allowed] != kilntest.MachineAddr || len(got) != 2 {
		t.Errorf("reached %v", got)
	}
}

func TestFunctionsResolveNamesAsTheMachineDoes(t *testing.T) {
	world := kilntest.Internet(t)
	kilntest.Listen(t, world, port)
	resolver := machineResolver(t)
	if resolver.IsLoopback() {
		kilntest.AnswerNames(t, nil, resolver.String(), kilntest.ServerAddr)
	} else {
		kilntest.AddAddr(t, world, resolver.String())
		kilntest.AnswerNames(t, world, resolver.String(), kilntest.ServerAddr)
	}
	n := kilntest.Start(t, "--egress", "internet")
	n.Deploy(t.Context(), kilntest.Function{Name: "python", Timeout: 30, Zip: python(t, probe)})
	n.Deploy(t.Context(), kilntest.Function{Name: "node", Runtime: n.Runtime("nodejs"), Timeout: 30, Zip: kilntest.Zip(t, map[string]string{"index.mjs": `
export const handler = async () => (await (await import('node:dns/promises')).resolve4('example.com'))[0];
`})})
	target := fmt.Sprintf("example.com:%d", port)
	if got := reached(t, n, "python", target); got[target] != kilntest.MachineAddr {
		t.Errorf("python reached %v", got)
	}
	if got := value[string](t, n, "node", `{}`); got != kilntest.ServerAddr {
		t.Errorf("node resolved %s", got)
	}
}

// machineResolver is the first resolver that this machine names.
func machineResolver(t *testing.T) net.IP {
	t.Helper()
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" && net.ParseIP(f[1]).To4() != nil {
			return net.ParseIP(f[1])
		}
	}
	t.Skip("this machine names no resolver of IPv4")
	return nil
}

// addresses are the machine's own of version 4.
func addresses(t *testing.T) []string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil {
			addrs = append(addrs, ip.IP.String())
		}
	}
	return addrs
}

func TestFunctionsDoNotReachOneAnother(t *testing.T) {
	kilntest.Internet(t)
	n := kilntest.Start(t, "--egress", "internet")
	n.Deploy(t.Context(), kilntest.Function{Name: "listens", Timeout: 30, Zip: python(t, `
import socket, threading
l = socket.create_server(('', 8080))
def serve():
    while True:
        c, _ = l.accept(); c.sendall(b'canary'); c.close()
threading.Thread(target=serve, daemon=True).start()
def handler(event, context):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('198.51.100.7', 9))
    own = s.getsockname()[0]
    if event: threading.Event().wait(event)
    return [own, socket.create_connection((own, 8080)).recv(100).decode()]
`)})
	n.Deploy(t.Context(), kilntest.Function{Name: "probe", Timeout: 30, Zip: python(t, probe)})
	own := value[[]string](t, n, "listens", `0`)
	if own[1] != "canary" {
		t.Fatalf("it does not reach itself: %v", own)
	}
	// An environment runs only while it is invoked.
	ended := make(chan error, 1)
	go func() {
		_, err := n.Client().Invoke(context.WithoutCancel(t.Context()), &lambda.InvokeInput{FunctionName: aws.String("listens"), Payload: []byte(`4`)})
		ended <- err
	}()
	if got := reached(t, n, "probe", own[0]+":8080", own[0]+":9001", own[0]+":9002", "127.0.0.1:8080"); len(got) != 0 {
		t.Errorf("reached %v", got)
	}
	select {
	case err := <-ended:
		t.Fatalf("the other had ended by then: %v", err)
	default:
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWithoutEgressFunctionsReachNothing(t *testing.T) {
	world := kilntest.Internet(t)
	kilntest.Listen(t, world, port)
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "probe", Timeout: 30, Zip: python(t, probe)})
	if got := reached(t, n, "probe", fmt.Sprintf("%s:%d", kilntest.ServerAddr, port), fmt.Sprintf("example.com:%d", port)); len(got) != 0 {
		t.Errorf("reached %v", got)
	}
}

// networkTraces are the links, tables and settings of a machine.
func networkTraces(t *testing.T) []string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		all = append(all, "link "+l.Attrs().Name)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		all = append(all, "table "+table.Name)
	}
	settings, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/forwarding")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s+"="+strings.TrimSpace(string(text)))
	}
	slices.Sort(all)
	return all
}

func TestTheNetworkOfAKilledNodeIsSweptAndNothingElse(t *testing.T) {
	kilntest.Internet(t)
	other := kilntest.Start(t, "--egress", "internet")
	other.Deploy(t.Context(), kilntest.Function{Name: "probe", Timeout: 30, Zip: python(t, probe)})
	value[map[string]string](t, other, "probe", `[]`)
	before := networkTraces(t)
	n := kilntest.Start(t, "--egress", "internet")
	n.Deploy(t.Context(), kilntest.Function{Name: "f", Zip: python(t, echo)})
	call(t, n, "f", `{}`)
	running := networkTraces(t)
	if slices.Equal(running, before) {
		t.Fatal("nothing was found while the node ran: the test looks in the wrong place")
	}
	n.Kill()
	n.Restart()
	call(t, n, "f", `{}`)
	if got := networkTraces(t); !slices.Equal(got, running) {
		t.Errorf("after the restart\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(running, "\n"))
	}
	n.Stop()
	if got := networkTraces(t); !slices.Equal(got, before) {
		t.Errorf("in the end\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}
	value[map[string]string](t, other, "probe", `[]`)
}

// readOnlySettings is a shell's program that runs its arguments where the kernel's settings cannot be changed, as in most containers.
const readOnlySettings = `mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"`

func TestAMachineThatCannotHaveANetworkIsToldSo(t *testing.T) {
	need(t, "/usr/bin/unshare", "util-linux")
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	run := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		args = append([]string{"--mount", "sh", "-c", readOnlySettings, "sh", kilntest.Binary(t)}, args...)
		out, err := exec.CommandContext(ctx, "/usr/bin/unshare", args...).CombinedOutput()
		return string(out), err
	}
	out, err := run("serve", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	if err == nil {
		t.Fatalf("it serves: %s", out)
	}
	contains(t, out, "this machine cannot run kiln: egress: ")
	contains(t, out, "with /proc/sys writable")
	contains(t, out, "or run with --egress none")
	out, err = run("doctor", "--data", t.TempDir())
	if err != nil {
		t.Errorf("doctor: %v", err)
	}
	contains(t, out, "egress")
	contains(t, out, "with /proc/sys writable")
}

func TestManyStartsLeaveNoNamespaces(t *testing.T) {
	kilntest.Internet(t)
	n := kilntest.Start(t, "--egress", "internet")
	n.Deploy(t.Context(), kilntest.Function{Name: "exits", Timeout: 30, Zip: python(t, "import os\ndef handler(event, context):\n    os._exit(1)\n")})
	const starts = 40
	for range starts {
		fails(t, n, "exits", `{}`)
	}
	// Eight wait for a sandbox, eight more to be prepared anew, and the last sandbox may not be gone.
	if got := namespaces(t, n); got > 20 || got == 0 {
		t.Errorf("the node holds %d network namespaces after %d starts", got, starts)
	}
}

// namespaces is how many network namespaces the node holds.
func namespaces(t *testing.T, n *kilntest.Node) int {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "net:") {
			all[to] = true
		}
	}
	return len(all)
}

// TestANameThatMeansAPrivateAddressLeadsNowhere has the machine's resolver answer, for a name that anybody may own, with addresses that
// functions must not reach: what is dropped is packets, not names.
func TestANameThatMeansAPrivateAddressLeadsNowhere(t *testing.T) {
	for name, addr := range map[string]string{
		"private": kilntest.PrivateAddr, "metadata": kilntest.MetadataAddr, "the machine": kilntest.MachineAddr, "internet": kilntest.ServerAddr,
	} {
		t.Run(name, func(t *testing.T) {
			world := kilntest.Internet(t)
			kilntest.Listen(t, world, port)
			kilntest.Listen(t, nil, port)
			resolver := machineResolver(t)
			if resolver.IsLoopback() {
				kilntest.AnswerNames(t, nil, resolver.String(), addr)
			} else {
				kilntest.AddAddr(t, world, resolver.String())
				kilntest.AnswerNames(t, world, resolver.String(), addr)
			}
			n := kilntest.Start(t, "--egress", "internet")
			n.Deploy(t.Context(), kilntest.Function{Name: "probe", Timeout: 30, Zip: python(t, probe)})
			got := reached(t, n, "probe", fmt.Sprintf("example.com:%d", port))
			// The name that means what may be reached shows that it was resolved at all.
			if want := map[bool]int{true: 1}[addr == kilntest.ServerAddr]; len(got) != want {
				t.Errorf("reached %v, want %d", got, want)
			}
		})
	}
}

func TestCredentialsDoNotOutliveTheirFunction(t *testing.T) {
	n := kilntest.Start(t)
	n.Deploy(t.Context(), kilntest.Function{Name: "tell", Zip: python(t, tellKeys)})
	stolen := value[keys](t, n, "tell", `{}`)
	if err := stolen.list(t, n); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Client().DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String("tell")}); err != nil {
		t.Fatal(err)
	}
	// The environment ends a moment after the answer.
	deadline := time.Now().Add(10 * time.Second)
	err := stolen.list(t, n)
	for err == nil && time.Now().Before(deadline) {
		err = stolen.list(t, n)
	}
	wantCode(t, err, "ExpiredTokenException")
	n.Deploy(t.Context(), kilntest.Function{Name: "tell", Zip: python(t, tellKeys)})
	if again := value[keys](t, n, "tell", `{}`); again.ID == stolen.ID || again.Token == stolen.Token {
		t.Error("a new function of that name has the old one's credentials")
	}
	wantCode(t, stolen.list(t, n), "ExpiredTokenException")
}

// flood opens connections and sends packets as fast as it can, to many ports of one address, and says how many.
const flood = `
import socket, time
def handler(event, context):
    end, n = time.monotonic() + event['seconds'], 0
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    while time.monotonic() < end:
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex((event['to'], 1024 + n % 60000))
        s.close()
        for _ in range(20):
            n += 1
            try: udp.sendto(bytes(1000), (event['to'], 1024 + n % 60000))
            except OSError: pass
    return n
`

// TestAFloodOfPacketsCutsNobodyOff floods the internet from one sandbox and dials it from another meanwhile.
func TestAFloodOfPacketsCutsNobodyOff(t *testing.T) {
	world := kilntest.Internet(t)
	kilntest.Listen(t, world, port)
	n := kilntest.Start(t, "--egress", "internet")
	n.Deploy(t.Context(), kilntest.Function{Name: "flood", Timeout: 30, MemoryMB: 1769, Zip: python(t, flood)})
	n.Deploy(t.Context(), kilntest.Function{Name: "probe", Timeout: 30, Zip: python(t, probe)})
	server := fmt.Sprintf("%s:%d", kilntest.ServerAddr, port)
	reached(t, n, "probe", server)
	value[int](t, n, "flood", fmt.Sprintf(`{"to":%q,"seconds":0}`, kilntest.ServerAddr))
	ended := make(chan int, 1)
	go func() {
		sent := 0
		out, err := n.Client().Invoke(context.WithoutCancel(t.Context()), &lambda.InvokeInput{
			FunctionName: aws.String("flood"), Payload: fmt.Appendf(nil, `{"to":%q,"seconds":4}`, kilntest.ServerAddr),
		})
		if err == nil {
			json.Unmarshal(out.Payload, &sent) // what is no number stays 0
		}
		ended <- sent
	}()
	<-time.After(time.Second) // its buckets are empty
	dialed, lost := 0, 0
	for {
		select {
		case sent := <-ended:
			t.Logf("%d packets were sent; of %d dials %d failed meanwhile", sent, dialed, lost)
			if sent < 1000 || dialed == 0 || lost > 0 {
				t.Errorf("of %d dials beside %d packets %d failed", dialed, sent, lost)
			}
			return
		default:
			dialed++
			if len(reached(t, n, "probe", server)) != 1 {
				lost++
			}
		}
	}
}
