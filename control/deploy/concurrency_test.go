package deploy

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln"
	"kiln/api"
)

func (n *node) reserve(name string, places int32) error {
	n.Helper()
	out, err := call[api.PutFunctionConcurrencyRequest, api.Concurrency](n, api.PutFunctionConcurrency,
		api.PutFunctionConcurrencyRequest{FunctionName: &name, ReservedConcurrentExecutions: &places})
	if err == nil && *out.ReservedConcurrentExecutions != places {
		n.Errorf("%s has %d reserved, want %d", name, *out.ReservedConcurrentExecutions, places)
	}
	return err
}

func (n *node) unreserve(name string) error {
	n.Helper()
	_, err := call[api.DeleteFunctionConcurrencyRequest, api.Unit](n, api.DeleteFunctionConcurrency,
		api.DeleteFunctionConcurrencyRequest{FunctionName: &name})
	return err
}

// reserved is what GetFunctionConcurrency and GetFunction tell, -1 if nothing is reserved.
func (n *node) reserved(name string) int32 {
	n.Helper()
	c := must(call[api.GetFunctionConcurrencyRequest, api.GetFunctionConcurrencyResponse](n, api.GetFunctionConcurrency,
		api.GetFunctionConcurrencyRequest{FunctionName: &name}))
	f := must(n.get(name, ""))
	if c.ReservedConcurrentExecutions == nil {
		if f.Concurrency != nil {
			n.Errorf("GetFunction shows %+v where nothing is reserved", f.Concurrency)
		}
		return -1
	}
	if f.Concurrency == nil || *f.Concurrency.ReservedConcurrentExecutions != *c.ReservedConcurrentExecutions {
		n.Errorf("GetFunction shows %+v, want %d", f.Concurrency, *c.ReservedConcurrentExecutions)
	}
	return *c.ReservedConcurrentExecutions
}

// unreserved is what GetAccountSettings says is left.
func (n *node) unreserved() int32 {
	n.Helper()
	out := must(call[api.GetAccountSettingsRequest, api.GetAccountSettingsResponse](n, api.GetAccountSettings, api.GetAccountSettingsRequest{}))
	return *out.AccountLimit.UnreservedConcurrentExecutions
}

func TestReservationsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		for _, name := range []string{"f", "g", "h"} {
			_ = must(n.create(name))
		}
		synctest.Wait()
		const below = "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100]."
		check := func(what string, err error, refused string, left, f, g int32) {
			t.Helper()
			if refused == "" && err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if refused != "" {
				n.wantError(err, kiln.InvalidParameterValue, refused)
			}
			if got := []int32{n.unreserved(), n.reserved("f"), n.reserved("g")}; got[0] != left || got[1] != f || got[2] != g {
				t.Errorf("%s: left, f and g are %v, want %v", what, got, []int32{left, f, g})
			}
		}
		check("f gets 400", n.reserve("f", 400), "", 600, 400, -1)
		check("g gets too much", n.reserve("g", 501), below, 600, 400, -1)
		check("g gets the rest", n.reserve("g", 500), "", 100, 400, 500)
		check("f gets one more", n.reserve("f", 401), below, 100, 400, 500)
		check("h is stopped, which takes nothing", n.reserve("h", 0), "", 100, 400, 500)
		check("f gets less", n.reserve("f", 0), "", 500, 0, 500)
		check("f gets its part again", n.reserve("f", 1), "", 499, 1, 500)
		check("f gives it back", n.unreserve("f"), "", 500, -1, 500)
		check("f gives nothing back", n.unreserve("f"), "", 500, -1, 500)
		_ = must(call[api.DeleteFunctionRequest, api.DeleteFunctionResponse](n, api.DeleteFunction, api.DeleteFunctionRequest{FunctionName: new("g")}))
		if left := n.unreserved(); left != 1000 {
			t.Errorf("after g was deleted %d are left", left)
		}
		_ = must(n.create("g"))
		if got := n.reserved("g"); got != -1 {
			t.Errorf("a new function of that name has %d reserved", got)
		}
	})
}

func TestAChangedFunctionKeepsItsReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		if err := n.reserve("f", 7); err != nil { // while the function is Pending
			t.Fatal(err)
		}
		n.stop()
		n.start()
		<-time.After(2 * DefaultSettle)
		if got := n.reserved("f"); got != 7 {
			t.Errorf("after it has become active, %d is reserved", got)
		}
	})
}

func TestWhoReservesAtTheSameTimeIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		const functions, each = 12, 100
		for i := range functions {
			_ = must(n.create(fmt.Sprint("f", i)))
		}
		synctest.Wait()
		var granted sync.Map
		var wg sync.WaitGroup
		for i := range functions {
			wg.Go(func() {
				name := fmt.Sprint("f", i)
				if err := n.reserve(name, each); err == nil {
					granted.Store(name, true)
				} else if kiln.KindOf(err) != kiln.InvalidParameterValue {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		total := 0
		for i := range functions {
			name := fmt.Sprint("f", i)
			_, ok := granted.Load(name)
			if got := n.reserved(name); ok != (got == each) {
				t.Errorf("%s was granted: %v, and has %d", name, ok, got)
			}
			if ok {
				total += each
			}
		}
		if total != 900 || n.unreserved() != 100 {
			t.Errorf("%d are reserved and %d left, of 1000", total, n.unreserved())
		}
	})
}

func TestWhatCannotBeReservedIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = must(n.create("f"))
		put := func(in api.PutFunctionConcurrencyRequest) error {
			_, err := call[api.PutFunctionConcurrencyRequest, api.Concurrency](n, api.PutFunctionConcurrency, in)
			return err
		}
		n.wantError(put(api.PutFunctionConcurrencyRequest{FunctionName: new("f")}), kiln.Validation, "1 validation error detected: "+
			"Value null at 'reservedConcurrentExecutions' failed to satisfy constraint: Member must not be null")
		n.wantError(n.reserve("f", -1), kiln.Validation, "1 validation error detected: "+
			"Value '-1' at 'reservedConcurrentExecutions' failed to satisfy constraint: Member must have value greater than or equal to 0")
		n.wantError(n.reserve("none", 1), kiln.ResourceNotFound, "Function not found: "+fnARN+"none:$LATEST")
		n.wantError(n.unreserve("none"), kiln.ResourceNotFound, "Function not found: "+fnARN+"none")
		for _, name := range []string{"f:$LATEST", "f:1"} {
			if err := n.reserve(name, 1); kiln.KindOf(err) != kiln.InvalidParameterValue {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
