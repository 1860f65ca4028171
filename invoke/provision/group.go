package provision

import (
	"errors"
	"slices"
	"time"

	"kiln"
	"kiln/catalog"
	"kiln/fleet"
)

// key names a configuration.
type key struct {
	account   kiln.AccountID
	function  kiln.FunctionName
	qualifier kiln.Qualifier
}

// group is the environments of one configuration. It decides and does nothing else: no lock, no clock, no I/O.
type group struct {
	asked  time.Time
	shares []catalog.Share
	// leaving are deployments that the configuration asked for before. Their environments stay until those that it asks for now are there.
	leaving []string
	// starting counts environments that are being started, by deployment.
	starting map[string]int
	// failures is how many starts in a row have failed, failure is why the last one has, and again is when another is tried.
	failures int
	failure  error
	again    time.Time
}

// count is how many environments of a deployment are provisioned, and how many of them are to be replaced because of their age.
type count struct{ all, aged int }

// step is what is to be done for a group.
type step struct {
	// starts are the versions of which an environment is to be started, one for each.
	starts []*kiln.Version
	// withdraw is how many environments are no longer wanted, by deployment.
	withdraw map[string]int
	// available is how many are initialised, and missing how many of those that are asked for are not.
	available, missing int
}

const (
	// minPause and maxPause bound how long after a start that failed there is no other: one whose INIT fails, or for which there is no room,
	// is not to cost others their processor.
	minPause = time.Second
	maxPause = time.Minute
)

// want makes shares what the group asks for, as somebody has asked at that time. What it asked for before is left to leave.
func (g *group) want(asked time.Time, shares []catalog.Share) {
	wanted := make(map[string]bool)
	for _, s := range shares {
		wanted[s.Version.Deployment] = true
	}
	var leaving []string
	for _, d := range g.leaving {
		if !wanted[d] {
			leaving = append(leaving, d)
		}
	}
	for _, s := range g.shares {
		if d := s.Version.Deployment; !wanted[d] {
			leaving = append(leaving, d)
		}
	}
	if !asked.Equal(g.asked) || len(leaving) > 0 {
		g.failures, g.failure, g.again = 0, nil, time.Time{} // it may be another now that succeeds
	}
	g.asked, g.shares, g.leaving = asked, shares, leaving
}

// next returns what is to be done at now, at most with slots starts. provided counts the environments that there are.
func (g *group) next(provided func(deployment string) count, slots int, now time.Time) step {
	s := step{withdraw: make(map[string]int)}
	for _, share := range g.shares {
		d := share.Version.Deployment
		c := provided(d)
		fresh := c.all - c.aged
		s.available += min(c.all, share.Places)
		missing := share.Places - fresh - g.starting[d]
		s.missing += max(share.Places-c.all, 0)
		switch {
		case missing > 0 && now.Before(g.again):
		case missing > 0:
			if g.failures > 0 {
				missing = 1 // one shows whether it fails still
			}
			for range min(missing, slots) {
				s.starts = append(s.starts, share.Version)
				slots--
			}
		case fresh >= share.Places && c.all > share.Places:
			s.withdraw[d] = c.all - share.Places
		}
	}
	asked := places(g.shares)
	for _, d := range g.leaving {
		n := provided(d).all
		// Where there is no room for both, those that are wanted no longer give theirs.
		if s.missing == 0 || errors.Is(g.failure, errNoRoom) {
			s.withdraw[d] = n
			continue
		}
		s.available = min(s.available+n, asked)
	}
	return s
}

func places(shares []catalog.Share) int {
	n := 0
	for _, s := range shares {
		n += s.Places
	}
	return n
}

// begin counts starts.
func (g *group) begin(starts []*kiln.Version) {
	for _, v := range starts {
		g.starting[v.Deployment]++
	}
}

// end counts a start that has ended, with err or nil.
func (g *group) end(deployment string, err error, now time.Time) {
	if g.starting[deployment]--; g.starting[deployment] == 0 {
		delete(g.starting, deployment)
	}
	if err == nil {
		g.failures, g.failure, g.again = 0, nil, time.Time{}
		return
	}
	g.again = now.Add(min(minPause<<min(g.failures, 10), maxPause))
	g.failures++
	g.failure = err
}

// forget drops the deployments that have left, and those that another group wants.
func (g *group) forget(wanted map[string]bool, provided func(deployment string) count) {
	g.leaving = slices.DeleteFunc(g.leaving, func(d string) bool {
		return wanted[d] || provided(d).all == 0 && g.starting[d] == 0
	})
}

// done reports whether nothing is left of a group.
func (g *group) done() bool { return len(g.shares)+len(g.leaving)+len(g.starting) == 0 }

// errNoRoom stands for the error of a start that found no room for long.
var errNoRoom = errors.New("no room")

// reason is what users are told of why a start has failed.
func reason(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, fleet.ErrInit):
		return "FUNCTION_ERROR_INIT_FAILURE" // as AWS
	case errors.Is(err, errNoRoom):
		return "There is no room for another execution environment."
	}
	if e, ok := errors.AsType[*kiln.Error](err); ok && e.Kind != kiln.Internal {
		return e.Message
	}
	return "An execution environment could not be started."
}
