-- Lists of one action's events, newest first: those of a rare one would otherwise be
-- looked for among all events. Writes wait while the index is made, which takes some
-- seconds for millions of events.
CREATE INDEX audit_events_action_idx ON audit_events (action, event_time DESC, id DESC);
