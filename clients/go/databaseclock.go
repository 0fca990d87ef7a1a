package hitkeepauth

// databaseClock is an estimate of the database's clock, by which expiries are judged. It never
// changes.
//
// A machine that slept and one whose time of day was set forward look the same: the clock that can
// be set is ahead of the one that cannot ([moment]). So there are two estimates, which differ only
// after that and until the next answer: what time it is if the time of day was set, and what time it
// is if the machine slept.
type databaseClock struct {
	calibrated moment
	// The time at that moment, in microseconds since 1970.
	earliest, latest int64
}

// newDatabaseClock is the estimate before a server has said anything: the machine's time of day.
func newDatabaseClock(at moment) databaseClock {
	micros := at.wall.UnixMicro()
	return databaseClock{calibrated: at, earliest: micros, latest: micros}
}

// at is the time at a moment, by either estimate.
func (c databaseClock) at(m moment) (earliest, latest int64) {
	least, most := m.between(c.calibrated)
	return c.earliest + least.Microseconds(), c.latest + most.Microseconds()
}

// calibrate takes what time it was by the database's clock at some moment between a question, which
// was sent at the moment asked, and its answer. An estimate that agrees with that stays, and
// another one moves to the nearer bound, so that a slow answer does no harm.
func (c databaseClock) calibrate(asked, answered moment, database int64) databaseClock {
	earliest, latest := c.at(answered)
	least, most := answered.between(asked)
	calibrated := databaseClock{
		calibrated: answered,
		earliest:   min(max(earliest, database), database+least.Microseconds()),
		latest:     min(max(latest, database), database+most.Microseconds()),
	}
	if least == most {
		// Whatever happened before the question no longer matters.
		calibrated.earliest = calibrated.latest
	}
	return calibrated
}
