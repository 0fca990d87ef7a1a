package hitkeepauth

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pascalebeier/hitkeep-auth/clients/go/hitkeepauthpb"
)

const (
	reportTimeout = 5 * time.Second
	// Of the last reports, with all their retries.
	lastReports = 5 * time.Second
	reportRetry = 100 * time.Millisecond
	// The most clients of one report.
	maxReported = 5000
)

// reporter reports the uses that were counted here. A report is sent until it is acknowledged,
// always the same under one number, so that it is counted once.
type reporter struct {
	replica ID
	ledger  *ledger
	link    *atomic.Pointer[link]
	log     *slog.Logger

	// The number of the last report.
	number uint64
	// The report that is not acknowledged yet. It must not change.
	sent *pb.ReportUsageRequest
	// Uses of later reports.
	batch   usageBatch
	failing bool

	life    context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

func (r *reporter) start(interval time.Duration) {
	r.life, r.stop = context.WithCancel(context.Background())
	r.running.Go(func() {
		for pause(r.life, interval) {
			// What is cut off here is sent again by finish.
			r.reportAll(r.life)
		}
	})
}

// finish reports the last uses.
func (r *reporter) finish() {
	r.stop()
	r.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), lastReports)
	defer cancel()
	for !r.reportAll(ctx) {
		// There may be no server at the moment.
		if !pause(ctx, reportRetry) {
			r.log.Warn("hitkeepauth: closed before the last uses were reported", "clients", r.pending())
			return
		}
	}
}

func (r *reporter) pending() int { return len(r.batch) + len(r.sent.GetClients()) }

// reportAll reports everything that was counted so far. It reports whether that is acknowledged.
func (r *reporter) reportAll(ctx context.Context) bool {
	r.ledger.take(r.batch)
	for {
		if r.sent == nil {
			r.sent = r.next()
		}
		if r.sent == nil {
			return true
		}
		err := r.report(ctx)
		refused := isRefused(err)
		switch {
		case err == nil && r.failing:
			r.log.Info("hitkeepauth: uses are reported again")
		case refused:
			r.log.Error("hitkeepauth: uses were refused and are lost", "error", err)
		case err != nil && !r.failing && ctx.Err() == nil:
			r.log.Warn("hitkeepauth: uses cannot be reported, and are kept", "clients", r.pending(), "error", err)
		}
		r.failing = err != nil
		if err != nil && !refused {
			return false
		}
		r.sent = nil
	}
}

func (r *reporter) report(ctx context.Context) error {
	link := r.link.Load()
	if link == nil {
		return errNoUpstream
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return link.report(ctx, r.sent)
}

// next is the next report; nil if there is nothing to report.
func (r *reporter) next() *pb.ReportUsageRequest {
	if len(r.batch) == 0 {
		return nil
	}
	r.number++
	report := &pb.ReportUsageRequest{ReplicaId: r.replica.String(), Number: r.number}
	for client, usage := range r.batch {
		if len(report.Clients) == maxReported {
			break
		}
		delete(r.batch, client)
		report.Clients = append(report.Clients, usage.wire(client))
	}
	slices.SortFunc(report.Clients, func(a, b *pb.ReplicatedUsage) int {
		return slices.Compare(a.GetClientId(), b.GetClientId())
	})
	return report
}

func (u *clientUsage) wire(client ID) *pb.ReplicatedUsage {
	sent := &pb.ReplicatedUsage{
		ClientId:              client[:],
		LastUsedTime:          microsToWire(u.lastUsed),
		ReplacedTokenUsedTime: microsToWire(u.replacedUsed),
	}
	for _, count := range u.counts {
		sent.Counts = append(sent.Counts, &pb.ReplicatedCount{Day: count.day, Outcome: count.outcome, Count: count.count})
	}
	slices.SortFunc(sent.Counts, func(a, b *pb.ReplicatedCount) int {
		return cmp.Or(cmp.Compare(a.GetDay(), b.GetDay()), cmp.Compare(a.GetOutcome(), b.GetOutcome()))
	})
	return sent
}

func microsToWire(at int64) *timestamppb.Timestamp {
	if at == always {
		return nil
	}
	return timestamppb.New(time.UnixMicro(at))
}

// isRefused reports whether a report would be refused again.
func isRefused(err error) bool {
	code := status.Code(err)
	return code == codes.InvalidArgument || code == codes.Unimplemented
}
