package kiln

import (
	"fmt"
	"strings"
	"testing"
)

func TestALineageCountsHowOftenAFunctionWasInvoked(t *testing.T) {
	var l Lineage
	for i := 1; i <= 20; i++ {
		var n int
		if l, n = l.Add("arn:aws:lambda:us-east-1:1:function:a"); n != i {
			t.Fatalf("call %d is counted as %d: %s", i, n, l)
		}
		if l, n = l.Add("arn:aws:lambda:us-east-1:1:function:b"); n != i {
			t.Fatalf("call %d of the other is counted as %d: %s", i, n, l)
		}
	}
	if strings.Count(string(l), "|") != 1 {
		t.Errorf("two functions have the lineage %s", l)
	}
}

func TestALineageIsBounded(t *testing.T) {
	var l Lineage
	for i := range 1000 {
		l, _ = l.Add(fmt.Sprint("arn:", i))
	}
	if n := strings.Count(string(l), "|") + 1; n != maxAncestors {
		t.Errorf("it has %d functions", n)
	}
	if _, n := l.Add("arn:999"); n != 2 {
		t.Errorf("the last one is invoked for time %d", n)
	}
}

func TestWhatIsNoLineageIsLeftOut(t *testing.T) {
	want, _ := Lineage("").Add("arn:a")
	for _, l := range []Lineage{"", "|", "x", "a87bd80c", "a87bd80c:", "a87bd80c:-1", "a87bd80c:99999", "A87BD80C:1", "a87b:1", "zzzzzzzz:1", "a87bd80c:1:2;Root=1"} {
		if got, n := l.Add("arn:a"); got != want || n != 1 {
			t.Errorf("%q: %s, %d", l, got, n)
		}
	}
	if got, _ := Lineage("a87bd80c:01|").Add("arn:a"); got != "a87bd80c:1|"+want {
		t.Errorf("it became %s", got)
	}
}
