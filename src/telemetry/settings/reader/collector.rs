//! The endpoint of a signal and its options: the variables of OTLP's exporters. Each signal
//! has its own, and those for all signals apply if its own are unset.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::{
    super::{Collector, File, Protocol, SettingProblem, Signal},
    VariableReader, pair, parts,
};

/// The default endpoints of the specification.
const GRPC_COLLECTOR: &str = "http://localhost:4317";
const HTTP_COLLECTOR: &str = "http://localhost:4318";
/// The default port of collectors for OTLP over HTTP.
const HTTP_PORT: u16 = 4318;
/// The default limit of an export's duration.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An endpoint as the variable has it.
struct Endpoint {
    variable: String,
    value: String,
    /// Whether it is for one signal only.
    is_own: bool,
}

impl VariableReader<'_> {
    /// The collector of a signal, if it is exported.
    pub(super) fn collector(&mut self, signal: Signal) -> Option<Collector> {
        let is_otlp = self.exporter(signal);
        if is_otlp == Some(false) {
            return None;
        }
        let [own, of_all] = of_signal(signal, "ENDPOINT");
        let endpoint = |variable: String, is_own| {
            let value = self.given(&variable)?;
            Some(Endpoint {
                variable,
                value,
                is_own,
            })
        };
        let endpoint = endpoint(own, true).or_else(|| endpoint(of_all, false));
        // Without an explicit setting, nothing is exported.
        if endpoint.is_none() && is_otlp.is_none() {
            return None;
        }
        let must = "grpc or http/protobuf";
        let protocol = self.word(of_signal(signal, "PROTOCOL"), must, |word| match word {
            "grpc" => Some(Protocol::Grpc),
            "http/protobuf" => Some(Protocol::Http),
            _ => None,
        });
        let (protocol, endpoint) = match endpoint {
            Some(endpoint) => self.address(signal, &endpoint, protocol)?,
            None => default_address(signal, protocol.unwrap_or(Protocol::Grpc)),
        };
        let gzip = self.word(
            of_signal(signal, "COMPRESSION"),
            "gzip or none",
            |word| match word {
                "gzip" => Some(true),
                "none" => Some(false),
                _ => None,
            },
        );
        Some(Collector {
            endpoint,
            protocol,
            headers: self.headers(signal),
            timeout: self
                .milliseconds(of_signal(signal, "TIMEOUT"))
                .unwrap_or(TIMEOUT),
            gzip: gzip.unwrap_or_default(),
            certificate: self.file(signal, "CERTIFICATE").ok(),
            identity: self.identity(signal),
        })
    }

    /// Whether a signal's exporter is OTLP; `None` if that is unset.
    fn exporter(&mut self, signal: Signal) -> Option<bool> {
        let name = format!("OTEL_{}_EXPORTER", signal.as_str().to_ascii_uppercase());
        let mut is_otlp = None;
        for word in self.words(&name) {
            match word.as_str() {
                "otlp" => is_otlp = Some(true),
                "none" => is_otlp = is_otlp.or(Some(false)),
                // The metrics page always exists.
                "prometheus" if signal == Signal::Metrics => is_otlp = is_otlp.or(Some(false)),
                _ => self.report_ignored(
                    &name,
                    "names an exporter that is ignored: there are otlp and none",
                ),
            }
        }
        is_otlp
    }

    /// The protocol of an endpoint, and its address for the signal.
    fn address(
        &mut self,
        signal: Signal,
        endpoint: &Endpoint,
        protocol: Option<Protocol>,
    ) -> Option<(Protocol, Uri)> {
        let Endpoint {
            variable,
            value,
            is_own,
        } = endpoint;
        let complete = if value.contains("://") {
            value.clone()
        } else if self.is_true(of_signal(signal, "INSECURE")) {
            format!("http://{value}")
        } else {
            format!("https://{value}")
        };
        let uri: Option<Uri> = complete.parse().ok();
        let Some(uri) = uri.filter(is_of_a_collector) else {
            self.report(SettingProblem::NotExported {
                signal,
                variable: variable.clone(),
                what: "must be a collector's address, such as http://collector:4317, with no \
                       user or password in it"
                    .to_owned(),
            });
            return None;
        };
        let has_path = uri.path() != "/" || uri.query().is_some();
        // A path implies HTTP, because gRPC does not use one.
        let is_http = has_path || uri.port_u16() == Some(HTTP_PORT);
        let by_address = if is_http {
            Protocol::Http
        } else {
            Protocol::Grpc
        };
        let protocol = protocol.unwrap_or(by_address);
        let path = match protocol {
            Protocol::Http if *is_own => return Some((protocol, uri)),
            Protocol::Http => {
                let query = uri.query().map(|query| format!("?{query}"));
                let path = uri.path().trim_end_matches('/');
                format!("{path}{}{}", path_of(signal), query.unwrap_or_default())
            }
            Protocol::Grpc => {
                if has_path {
                    let what = "has a path that is ignored: there is none over gRPC";
                    self.report_ignored(variable, what);
                }
                "/".to_owned()
            }
        };
        let mut parts = uri.into_parts();
        parts.path_and_query = path.parse().ok();
        Some((protocol, Uri::from_parts(parts).ok()?))
    }

    /// The headers of each export. An invalid one is left out, and the others are sent: the SDK
    /// reads the variable as well, and does the same.
    fn headers(&mut self, signal: Signal) -> Vec<(HeaderName, HeaderValue)> {
        let mut given = of_signal(signal, "HEADERS").into_iter();
        let given = given.find_map(|name| Some((self.given(&name)?, name)));
        let Some((value, name)) = given else {
            return Vec::new();
        };
        let header = |text| {
            let (key, value) = pair(text)?;
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(key.as_bytes()).ok()?, value))
        };
        let all: Vec<_> = parts(&value).map(header).collect();
        if all.contains(&None) {
            let what = "is ignored in part: it must be headers, as in name=value,name=value";
            self.report_ignored(&name, what);
        }
        all.into_iter().flatten().collect()
    }

    /// The file that a variable names, or else the variable's name.
    fn file(&self, signal: Signal, what: &str) -> Result<File, String> {
        let [own, of_all] = of_signal(signal, what);
        for variable in [own, of_all.clone()] {
            if let Some(path) = self.given(&variable) {
                let path = path.into();
                return Ok(File { variable, path });
            }
        }
        Err(of_all)
    }

    /// The client certificate and its key.
    fn identity(&mut self, signal: Signal) -> Option<(File, File)> {
        let certificate = self.file(signal, "CLIENT_CERTIFICATE");
        let key = self.file(signal, "CLIENT_KEY");
        match (certificate, key) {
            (Ok(certificate), Ok(key)) => Some((certificate, key)),
            (Err(_), Err(_)) => None,
            (Ok(File { variable, .. }), Err(missing))
            | (Err(missing), Ok(File { variable, .. })) => {
                let what = format_args!("is ignored: it has no effect without {missing}");
                self.report_ignored(&variable, what);
                None
            }
        }
    }
}

/// A signal's own variable, and the one for all signals.
fn of_signal(signal: Signal, what: &str) -> [String; 2] {
    let own = signal.as_str().to_ascii_uppercase();
    [
        format!("OTEL_EXPORTER_OTLP_{own}_{what}"),
        format!("OTEL_EXPORTER_OTLP_{what}"),
    ]
}

/// The path that is appended to an endpoint for all signals, over HTTP.
const fn path_of(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/v1/traces",
        Signal::Metrics => "/v1/metrics",
        Signal::Logs => "/v1/logs",
    }
}

fn default_address(signal: Signal, protocol: Protocol) -> (Protocol, Uri) {
    let address = match protocol {
        Protocol::Grpc => GRPC_COLLECTOR.to_owned(),
        Protocol::Http => format!("{HTTP_COLLECTOR}{}", path_of(signal)),
    };
    (protocol, address.parse().expect("it is one"))
}

fn is_of_a_collector(uri: &Uri) -> bool {
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    let plain = uri.authority().is_some_and(|at| !at.as_str().contains('@'));
    known && has_host && plain
}
