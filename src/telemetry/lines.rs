//! Log lines: one for each event, whatever is in it. A line break in a value becomes
//! its escape, so that nobody who gets a text into the log can make up a line there.
//! Within a trace that is exported, a line names it.

use std::fmt::{self, Write};

use opentelemetry::{Context, trace::TraceContextExt};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultFields, Format, Full, Json, JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// How a line is written.
pub(super) trait Kind {
    /// The subscriber's own format for it.
    type Format;
    /// What ends a line, before the line break.
    const END: &'static str;
    /// Adds to a line that it is of a trace.
    fn name_trace(line: &mut String, trace: &str, span: &str);
}

/// For people.
pub(super) struct ForPeople;
/// One JSON object a line.
pub(super) struct ForPrograms;

impl Kind for ForPeople {
    type Format = Format<Full>;
    const END: &'static str = "";

    fn name_trace(line: &mut String, trace: &str, span: &str) {
        write!(line, " trace_id={trace} span_id={span}").expect("a string takes everything");
    }
}

impl Kind for ForPrograms {
    type Format = Format<Json>;
    const END: &'static str = "}";

    fn name_trace(line: &mut String, trace: &str, span: &str) {
        write!(line, r#","trace_id":"{trace}","span_id":"{span}""#)
            .expect("a string takes everything");
    }
}

/// The subscriber's own format, made into one line.
pub(super) struct OneLine<K: Kind>(pub(super) K::Format);

/// Lines for people, coloured or not.
pub(super) fn for_people(is_coloured: bool) -> (OneLine<ForPeople>, DefaultFields) {
    let format = Format::default().with_ansi(is_coloured);
    (OneLine(format), DefaultFields::new())
}

/// Lines for programs.
pub(super) fn for_programs() -> (OneLine<ForPrograms>, JsonFields) {
    let format = Format::default().json().flatten_event(true);
    (OneLine(format), JsonFields::new())
}

impl<K, S, N> FormatEvent<S, N> for OneLine<K>
where
    K: Kind,
    K::Format: FormatEvent<S, N>,
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let mut line = escaped(line.trim_end_matches('\n'));
        let current = Context::current();
        let span = current.span();
        let span = span.span_context();
        if span.is_valid() && line.ends_with(K::END) {
            line.truncate(line.len() - K::END.len());
            K::name_trace(
                &mut line,
                &span.trace_id().to_string(),
                &span.span_id().to_string(),
            );
            line += K::END;
        }
        writeln!(writer, "{line}")
    }
}

/// The text without line breaks.
fn escaped(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r")
}
