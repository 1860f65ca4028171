package admission

import (
	"math/rand/v2"
	"testing"
	"time"

	"kiln"
)

// deployed is a version of f of account one in a deployment.
func deployed(deployment string) *kiln.Version {
	return &kiln.Version{Account: one, Function: "f", Deployment: deployment}
}

func TestProvisionedPlacesAreTheDeploymentsAlone(t *testing.T) {
	l := limited(5)
	l.Provision(one, "f", map[string]int{"d": 2}, start)
	for range 3 {
		acquire(t, l, one, "g", start)
	}
	_, err := l.Acquire(version(one, "g"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
	_, err = l.Acquire(deployed("another"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
	for range 2 {
		lease, err := l.Acquire(deployed("d"), start)
		if err != nil || lease.provision == nil {
			t.Errorf("got %v, %v", lease, err)
		}
	}
	_, err = l.Acquire(deployed("d"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
}

func TestWhatIsProvisionedSpillsOver(t *testing.T) {
	l := limited(3)
	l.Provision(one, "f", map[string]int{"d": 1}, start)
	first, err := l.Acquire(deployed("d"), start)
	if err != nil || first.provision == nil {
		t.Fatalf("got %v, %v", first, err)
	}
	second, err := l.Acquire(deployed("d"), start)
	if err != nil || second.provision != nil {
		t.Fatalf("got %v, %v", second, err)
	}
	first.Release(start)
	third, err := l.Acquire(deployed("d"), start)
	if err != nil || third.provision == nil {
		t.Errorf("got %v, %v", third, err)
	}
}

func TestWhatIsProvisionedIsPartOfWhatIsReserved(t *testing.T) {
	l := limited(10)
	l.Reserve(one, "f", new(3), start)
	l.Provision(one, "f", map[string]int{"d": 2}, start)
	if _, err := l.Acquire(deployed("latest"), start); err != nil {
		t.Fatal(err)
	}
	_, err := l.Acquire(deployed("latest"), start)
	wantThrottled(t, err, kiln.ReservedConcurrencyExceeded)
	for range 2 {
		if _, err := l.Acquire(deployed("d"), start); err != nil {
			t.Error(err)
		}
	}
	_, err = l.Acquire(deployed("d"), start)
	wantThrottled(t, err, kiln.ReservedConcurrencyExceeded)
	for range 7 { // what others share is as before
		acquire(t, l, one, "g", start)
	}
	_, err = l.Acquire(version(one, "g"), start)
	wantThrottled(t, err, kiln.ConcurrencyExceeded)
}

func TestProvisionedPlacesHaveARequestRateOfTheirOwn(t *testing.T) {
	l := limited(3)
	l.Provision(one, "f", map[string]int{"d": 1}, start)
	for range requestsPerPlace {
		lease, err := l.Acquire(deployed("d"), start)
		if err != nil {
			t.Fatal(err)
		}
		lease.Release(start)
	}
	_, err := l.Acquire(deployed("d"), start)
	wantThrottled(t, err, kiln.RateExceeded)
	acquire(t, l, one, "g", start)
}

// TestNoChangeLosesOrMakesPlaces lets invocations of two functions come and go while what is kept for one of them changes.
func TestNoChangeLosesOrMakesPlaces(t *testing.T) {
	const limit = 12
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		l, now := limited(limit), start
		var leases []Lease
		for range 300 {
			now = now.Add(time.Second) // so that rates do not matter
			switch random.IntN(8) {
			case 0:
				places := map[string]int{}
				for _, d := range []string{"d", "e"} {
					if n := random.IntN(4); n > 0 {
						places[d] = n
					}
				}
				l.Provision(one, "f", places, now)
			case 1:
				var reserved *int
				if n := random.IntN(9); n > 5 {
					reserved = &n
				}
				l.Reserve(one, "f", reserved, now)
			case 2, 3, 4:
				v := []*kiln.Version{version(one, "g"), deployed("d"), deployed("e"), deployed("latest")}[random.IntN(4)]
				if lease, err := l.Acquire(v, now); err == nil {
					leases = append(leases, lease)
				}
			default:
				if n := len(leases); n > 0 {
					i := random.IntN(n)
					leases[i].Release(now)
					leases[i] = leases[n-1]
					leases = leases[:n-1]
				}
			}
			if len(leases) > limit {
				t.Fatalf("seed %d: %d run, the limit is %d", seed, len(leases), limit)
			}
		}
		for _, lease := range leases {
			lease.Release(now)
		}
		l.Provision(one, "f", nil, now)
		l.Reserve(one, "f", nil, now)
		now = now.Add(time.Second)
		for range limit {
			acquire(t, l, one, "g", now)
		}
		_, err := l.Acquire(deployed("d"), now)
		wantThrottled(t, err, kiln.ConcurrencyExceeded)
	}
}
