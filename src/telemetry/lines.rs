//! Formats log lines: one for each event, whatever its content. A line break in a value is
//! escaped, so that a text from outside cannot forge a log line. In an exported trace, the
//! line has the trace's id.

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

pub(super) trait LineStyle {
    /// The subscriber's format that it extends.
    type Format;
    /// What closes a line, before the line break.
    const END: &'static str;
    /// Appends the ids of the trace and the span.
    fn append_trace(line: &mut String, trace: &str, span: &str);
}

pub(super) struct TextStyle;
/// One JSON object for each line.
pub(super) struct JsonStyle;

impl LineStyle for TextStyle {
    type Format = Format<Full>;
    const END: &'static str = "";

    fn append_trace(line: &mut String, trace: &str, span: &str) {
        write!(line, " trace_id={trace} span_id={span}").expect("a string takes everything");
    }
}

impl LineStyle for JsonStyle {
    type Format = Format<Json>;
    const END: &'static str = "}";

    fn append_trace(line: &mut String, trace: &str, span: &str) {
        write!(line, r#","trace_id":"{trace}","span_id":"{span}""#)
            .expect("a string takes everything");
    }
}

/// Puts the subscriber's format on one line.
pub(super) struct OneLine<K: LineStyle>(pub(super) K::Format);

/// Text, with or without colours.
pub(super) fn text_lines(is_coloured: bool) -> (OneLine<TextStyle>, DefaultFields) {
    let format = Format::default().with_ansi(is_coloured);
    (OneLine(format), DefaultFields::new())
}

pub(super) fn json_lines() -> (OneLine<JsonStyle>, JsonFields) {
    let format = Format::default().json().flatten_event(true);
    (OneLine(format), JsonFields::new())
}

impl<K, S, N> FormatEvent<S, N> for OneLine<K>
where
    K: LineStyle,
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
            K::append_trace(
                &mut line,
                &span.trace_id().to_string(),
                &span.span_id().to_string(),
            );
            line += K::END;
        }
        writeln!(writer, "{line}")
    }
}

/// Escapes line breaks.
fn escaped(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r")
}
