package main

import (
	"strings"
	"testing"
	"time"
)

func TestFlagsAreRefusedInPlainWords(t *testing.T) {
	good := options{
		listen: "127.0.0.1:9600", auth: authSigV4, logFormat: "text", drain: time.Second, egress: egressInternet, idle: time.Minute, age: time.Hour,
		concurrency: 1000, starts: 1000, startsPer: 10 * time.Second,
		queue: 1, queueWait: time.Second, requests: 1,
	}
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*options)
		want   string
	}{
		"listen":            {func(o *options) { o.listen = "nowhere" }, "--listen"},
		"admin":             {func(o *options) { o.admin = "9601" }, "--admin"},
		"auth":              {func(o *options) { o.auth = "basic" }, "--auth"},
		"open to everybody": {func(o *options) { o.auth, o.listen = authNone, "0.0.0.0:9600" }, "loopback"},
		"open by name":      {func(o *options) { o.auth, o.listen = authNone, "example.com:9600" }, "loopback"},
		"endpoint":          {func(o *options) { o.endpoint = "host:9600" }, "--endpoint"},
		"log format":        {func(o *options) { o.logFormat = "xml" }, "--log-format"},
		"drain":             {func(o *options) { o.drain = 0 }, "--drain"},
		"api rate":          {func(o *options) { o.requests = 0 }, "--api-rate 0"},
		"idle timeout":      {func(o *options) { o.idle = time.Millisecond }, "--idle-timeout"},
		"age":               {func(o *options) { o.age = time.Millisecond }, "--max-age"},
		"queue":             {func(o *options) { o.queue = 0 }, "--queue 0"},
		"queue wait":        {func(o *options) { o.queueWait = time.Millisecond }, "--queue-wait"},
		"role":              {func(o *options) { o.role = "front" }, "--role front"},
		"no name":           {func(o *options) { o.role = roleWorker }, "--name"},
		"no port":           {func(o *options) { o.role, o.listen = roleControl, "127.0.0.1:0" }, "--role control"},
		"no store":          {func(o *options) { o.role, o.masterKey = roleData, "key" }, "--master-key"},
		"data for anybody":  {func(o *options) { o.role, o.auth = roleData, authNone }, "--role data"},
		"memory":            {func(o *options) { o.memoryMB = -1 }, "--memory"},
		"runtime":           {func(o *options) { o.runtimes = []string{"python3.13"} }, "--runtime"},
		"egress":            {func(o *options) { o.egress = "lan" }, "--egress"},
		"no range":          {func(o *options) { o.allow = []string{"10.1"} }, "--egress-allow 10.1"},
		"IPv6":              {func(o *options) { o.allow = []string{"fd00::/8"} }, "no IPv6"},
		"not private":       {func(o *options) { o.allow = []string{"169.254.169.254/32"} }, "want a part of one of"},
		"more than private": {func(o *options) { o.allow = []string{"0.0.0.0/0"} }, "want a part of one of"},
		"within a range":    {func(o *options) { o.allow = []string{"10.1.2.3/16"} }, "10.1.0.0/16"},
		"allowed and none":  {func(o *options) { o.egress, o.allow = egressNone, []string{"10.1.0.0/16"} }, "--egress none"},
		"no concurrency":    {func(o *options) { o.concurrency = 0 }, "--concurrency 0"},
		"no starts":         {func(o *options) { o.starts = 0 }, "--scale-starts"},
		"scale period":      {func(o *options) { o.startsPer = 0 }, "--scale-period"},
		"account":           {func(o *options) { o.accounts = []string{"1=5"} }, "--account-concurrency 1=5"},
		"account's number":  {func(o *options) { o.accounts = []string{"123456789012=0"} }, "--account-concurrency 123456789012=0"},
		"relative prefix":   {func(o *options) { o.runtimes = []string{"python3.13=usr"} }, "--runtime"},
	} {
		o := good
		c.change(&o)
		if err := o.validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := good
	o.auth, o.listen = authNone, "localhost:9600"
	if err := o.validate(); err != nil {
		t.Errorf("no authentication on loopback: %v", err)
	}
}
