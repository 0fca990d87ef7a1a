//! Decides which calls are traced, and makes their spans.
//!
//! Spans for export have the target [`TARGET`], and the log never shows them. If traces are
//! off, no subscriber wants them, and creating one costs the test of a flag. Sampling is
//! decided here, once, before a span is made; the SDK's sampler only applies the decision.

use std::{
    cell::Cell,
    hash::{BuildHasher, Hasher, RandomState},
    time::SystemTime,
};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Link, SpanBuilder, SpanKind, TraceContextExt, TraceId, TraceState},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SamplingDecision, SamplingResult, SdkTracer, ShouldSample},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of spans for export.
pub const TARGET: &str = "hitkeep_auth::traces";
/// The status of a failed span, as the SDK's layer expects it.
pub const ERROR: &str = "ERROR";

/// The header with the caller's trace context (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";
/// The length of `00-<trace>-<span>-<flags>`.
const TRACEPARENT_BYTES: usize = 55;
/// The flag that says that the caller records the trace.
const SAMPLED: u8 = 1;

/// The sampling rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The fraction of calls that are traced, from 0 to 1, if nothing else decides.
    pub ratio: f64,
    /// Whether the caller's sampling decision is adopted, if it sends one.
    pub by_parent: bool,
    /// Whether the caller's trace is continued.
    pub takes_parents: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            ratio: 1.0,
            by_parent: true,
            takes_parents: true,
        }
    }
}

/// Decides which calls are traced. By default none are, at no cost.
#[derive(Clone, Debug, Default)]
pub struct Sampling(Option<(Rule, SdkTracer)>);

/// A call that succeeded without waiting.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'c> {
    /// The name of the span: service and method.
    pub name: &'static str,
    /// The full name of the service.
    pub service: &'static str,
    /// The name of the method, without the service.
    pub method: &'static str,
    pub begun: SystemTime,
    /// The request id that the caller sent.
    pub request_id: Option<&'c str>,
    /// The caller's name, if it is authenticated.
    pub caller: Option<&'c str>,
}

/// The wall-clock time, for use in spans only.
#[expect(
    clippy::disallowed_methods,
    reason = "the SDK reads it so for all others"
)]
pub fn now() -> SystemTime {
    SystemTime::now()
}

impl Sampling {
    /// Applies the rule, and makes spans with the tracer.
    pub(super) const fn by(rule: Rule, tracer: SdkTracer) -> Self {
        Self(Some((rule, tracer)))
    }

    /// Whether a call with these headers is traced. Must be asked once for each call: the
    /// answer may be random.
    pub fn traces(&self, headers: &HeaderMap) -> bool {
        self.0.as_ref().is_some_and(|(rule, _)| rule.takes(headers))
    }

    /// Makes the call's span a child in the caller's trace, or the root of a new trace, sampled
    /// or not.
    pub fn begin(&self, span: &Span, headers: &HeaderMap, is_traced: bool) {
        let Some((rule, _)) = &self.0 else { return };
        // Without an exporter for the span, there is no trace to join.
        span.set_parent(rule.parent(headers, is_traced)).ok();
    }

    /// Records the span of a finished call that [`Self::traces`], and passes it to the exporter.
    /// Making it through `tracing`, for other layers to inspect, would cost more than answering
    /// such a call.
    pub fn record(&self, headers: &HeaderMap, call: Answered<'_>) {
        let Some((rule, tracer)) = &self.0 else {
            return;
        };
        let given = |name, value: Option<&str>| Some(KeyValue::new(name, value?.to_owned()));
        let attributes = [
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", call.service),
            KeyValue::new("rpc.method", call.method),
            KeyValue::new("rpc.grpc.status_code", 0),
        ];
        let attributes = attributes
            .into_iter()
            .chain(given("request.id", call.request_id))
            .chain(given("caller.name", call.caller));
        let span = SpanBuilder::from_name(call.name)
            .with_kind(SpanKind::Server)
            .with_start_time(call.begun)
            .with_attributes(attributes)
            .start_with_context(tracer, &rule.parent(headers, true));
        // Dropping the span ends it.
        drop(span);
    }
}

/// Adds an attribute to the current span, if it is recorded.
pub fn note(name: &'static str, value: &impl ToString) {
    let current = Context::current();
    let span = current.span();
    if span.is_recording() {
        span.set_attribute(KeyValue::new(name, value.to_string()));
    }
}

impl Rule {
    /// The parent context of a call: the caller's trace, if it sends one, sampled or not.
    fn parent(&self, headers: &HeaderMap, is_traced: bool) -> Context {
        let nothing = Context::new();
        let parent = if self.takes_parents && headers.contains_key(TRACEPARENT) {
            TraceContextPropagator::new().extract_with_context(&nothing, &Headers(headers))
        } else {
            nothing
        };
        parent.with_value(Decided(is_traced))
    }

    fn takes(&self, headers: &HeaderMap) -> bool {
        let parent = if self.takes_parents {
            headers.get(TRACEPARENT).and_then(Parent::read)
        } else {
            None
        };
        match parent {
            Some(parent) if self.by_parent => parent.is_sampled,
            Some(parent) => self.takes_trace(parent.trace),
            None => self.takes_trace(draw()),
        }
    }

    /// Whether a trace is sampled whose id ends with these 64 bits. The decision is that of
    /// OpenTelemetry's SDK, so that services with the same ratio agree.
    fn takes_trace(&self, low: u64) -> bool {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of 2^63, where the last bits do not matter"
        )]
        let bound = (self.ratio.max(0.0) * (1_u64 << 63) as f64) as u64;
        self.ratio >= 1.0 || low >> 1 < bound
    }
}

/// The caller's trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    /// The last 64 bits of the trace id.
    trace: u64,
    is_sampled: bool,
}

impl Parent {
    /// Parses a `traceparent`. If it is invalid, the result is `None`, and the call begins a new
    /// trace.
    fn read(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let (head, rest) = bytes.split_at_checked(TRACEPARENT_BYTES)?;
        let version = hex(&head[..2])?;
        // Later versions may have more fields, after another hyphen.
        let may_go_on = version != 0 && rest.first() == Some(&b'-');
        let is_shaped = version != 0xff && [2, 35, 52].iter().all(|at| head[*at] == b'-');
        if !is_shaped || !(rest.is_empty() || may_go_on) {
            return None;
        }
        let (high, low) = (hex(&head[3..19])?, hex(&head[19..35])?);
        let is_valid = (high, low) != (0, 0) && hex(&head[36..52])? != 0;
        let flags = hex(&head[53..])?;
        is_valid.then_some(Self {
            trace: low,
            is_sampled: flags & u64::from(SAMPLED) != 0,
        })
    }
}

/// Parses up to 16 hexadecimal digits in lower case.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

/// A pseudo-random number (xorshift) from the thread's own sequence. It only decides what is
/// sampled, so it may be predictable.
fn draw() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }
    STATE.with(|state| {
        let mut number = state.get();
        if number == 0 {
            number = RandomState::new().build_hasher().finish() | 1;
        }
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        state.set(number);
        // The raw state is never 0, and its bits are unevenly distributed.
        number.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// A sampling decision, on its way to the SDK's sampler.
#[derive(Clone, Copy, Debug)]
struct Decided(bool);

/// The SDK's sampler: applies the decision on a call to all of its spans. Work without a
/// call is sampled at random.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecidedSampler(pub(super) Rule);

impl ShouldSample for DecidedSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let parent_span = parent.filter(|context| context.has_active_span());
        let of_parent = parent_span.map(|context| context.span().span_context().clone());
        let decided = parent.and_then(|context| context.get::<Decided>());
        let low = || {
            let [_, _, _, _, _, _, _, _, low @ ..] = trace.to_bytes();
            u64::from_be_bytes(low)
        };
        let is_traced = match (decided, &of_parent) {
            (Some(Decided(is_traced)), _) => *is_traced,
            (None, Some(parent)) => parent.is_sampled(),
            (None, None) => self.0.takes_trace(low()),
        };
        SamplingResult {
            decision: if is_traced {
                SamplingDecision::RecordAndSample
            } else {
                SamplingDecision::Drop
            },
            attributes: Vec::new(),
            trace_state: of_parent.map_or(TraceState::NONE, |parent| parent.trace_state().clone()),
        }
    }
}

/// Gives propagators access to headers.
struct Headers<'h>(&'h HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn headers(traceparent: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(traceparent));
        headers
    }

    fn by(rule: Rule) -> Sampling {
        Sampling::by(rule, SdkTracerProvider::default().tracer("tests"))
    }

    fn rule(ratio: f64, by_parent: bool) -> Sampling {
        by(Rule {
            ratio,
            by_parent,
            takes_parents: true,
        })
    }

    #[test]
    fn traceparent_parses_as_the_standard_says() {
        let read = |text| Parent::read(&HeaderValue::from_static(text));
        let parent = |is_sampled| {
            Some(Parent {
                trace: 0x8448_eb21_1c80_319c,
                is_sampled,
            })
        };
        assert_eq!(read(SAMPLED), parent(true));
        assert_eq!(read(UNSAMPLED), parent(false));
        // Other flags, and a later version with more fields.
        let flags = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02";
        assert_eq!(read(flags), parent(false));
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more";
        assert_eq!(read(later), parent(true));
        for none in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn the_caller_or_the_ratio_decides() {
        let nothing = HeaderMap::new();
        let (yes, no) = (headers(SAMPLED), headers(UNSAMPLED));
        let off = Sampling::default();
        assert!(!off.traces(&yes) && !off.traces(&nothing));
        let never = rule(0.0, true);
        assert!(never.traces(&yes) && !never.traces(&no) && !never.traces(&nothing));
        let always = rule(1.0, true);
        assert!(always.traces(&yes) && !always.traces(&no) && always.traces(&nothing));
        // The trace id decides, not the caller: here its upper half.
        let (half, more) = (rule(0.5, false), rule(0.6, false));
        assert!(!half.traces(&yes) && !half.traces(&no));
        assert!(more.traces(&yes) && more.traces(&no));
        let alone = by(Rule {
            ratio: 1.0,
            by_parent: true,
            takes_parents: false,
        });
        assert!(alone.traces(&no));
    }

    #[test]
    fn random_sampling_matches_the_ratio() {
        let nothing = HeaderMap::new();
        let tenth = rule(0.1, true);
        let taken = (0..100_000).filter(|_| tenth.traces(&nothing)).count();
        // Thirty standard deviations on either side.
        assert!((7_000..13_000).contains(&taken), "{taken}");
    }
}
