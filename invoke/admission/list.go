package admission

// list is functions in the order in which they were added.
type list struct{ first, last *function }

// add puts f, which must not be in the list, at its end.
func (l *list) add(f *function) {
	f.listed, f.previous, f.next = true, l.last, nil
	if l.last == nil {
		l.first = f
	} else {
		l.last.next = f
	}
	l.last = f
}

// remove takes f out, if it is in.
func (l *list) remove(f *function) {
	if !f.listed {
		return
	}
	if f.previous == nil {
		l.first = f.next
	} else {
		f.previous.next = f.next
	}
	if f.next == nil {
		l.last = f.previous
	} else {
		f.next.previous = f.previous
	}
	f.listed, f.previous, f.next = false, nil, nil
}
