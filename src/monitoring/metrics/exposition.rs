//! Metrics as text: OpenMetrics 1.0, or the format of Prometheus (0.0.4), whichever was asked for.
//!
//! A scrape is a list of families, plain data. The crate `prometheus-client` writes them, and escapes what stands in
//! labels. Its own counters are not used: they take a lock where a histogram or a label is counted.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::kit::histogram::Counted;
use crate::kit::text::is_unseen;
use crate::mail::reply::first_bytes;

/// The longest label: longer than any name of DNS.
pub(super) const LABEL_BYTES_MAX: usize = 255;

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows; `_total` is added to its name.
    Counter,
    /// As it is now.
    Gauge,
    /// Counts by size; `_bucket`, `_sum` and `_count` are added to its name.
    Histogram,
    /// Always 1; `_info` is added to its name.
    Info,
}

/// In which unit a family is counted. It is the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Things.
    Things,
    Bytes,
    Seconds,
}

/// What the metrics of a name have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Def {
    /// Without its unit and what its kind adds.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) of: Of,
    /// One sentence.
    pub(super) help: &'static str,
}

/// The value of one series.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(u64),
    Seconds(f64),
    /// Counts in a small unit, of which so many are one of the family's.
    Histogram(Counted, f64),
    /// Its labels are all there is to it.
    Info,
}

/// Names of labels and their values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Metrics of one name.
#[derive(Debug, Clone)]
pub(super) struct Family {
    pub(super) def: Def,
    pub(super) series: Vec<(Labels, Value)>,
}

impl Family {
    /// Of a single series without a label.
    pub(super) fn one(def: Def, value: Value) -> Family {
        Family { def, series: vec![(Vec::new(), value)] }
    }

    /// Of numbers, each with one label.
    pub(super) fn by_label<'a>(
        def: Def,
        label: &'static str,
        numbers: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Family {
        let series = |(value, number): (&str, u64)| (vec![(label, clean(value))], Value::Number(number));
        Family { def, series: numbers.into_iter().map(series).collect() }
    }
}

/// A value of a label that others have a say in: bounded, and without what cannot be seen.
pub(super) fn clean(label: &str) -> String {
    first_bytes(&label.replace(is_unseen, "\u{fffd}"), LABEL_BYTES_MAX).to_owned()
}

/// In which form metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// What an `Accept` field asks for; OpenMetrics where both are as welcome and it is named.
    pub(super) fn asked_for(accept: Option<&str>) -> Format {
        let weight = |media: &str| {
            let ranges = accept.unwrap_or_default().split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                parts.next().filter(|name| name.eq_ignore_ascii_case(media))?;
                let weight = parts.find_map(|part| part.strip_prefix("q="));
                Some(weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
            });
            ranges.fold(0.0_f64, f64::max)
        };
        let wanted = weight("application/openmetrics-text");
        if wanted > 0.0 && wanted >= weight("text/plain") { Format::OpenMetrics } else { Format::Prometheus }
    }

    /// The `Content-Type` of it.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Writes them.
    ///
    /// # Errors
    /// Never: text can always be written into a string.
    pub(super) fn write(self, families: Vec<Family>) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Families(families)));
        let mut out = String::new();
        match self {
            Format::OpenMetrics => text::encode(&mut out, &registry)?,
            Format::Prometheus => prometheus_text::encode(&mut out, &registry)?,
        }
        Ok(out)
    }
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { def, series } in self.0.iter().filter(|family| !family.series.is_empty()) {
            let kind = match def.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            let unit = match def.of {
                Of::Things => None,
                Of::Bytes => Some(Unit::Bytes),
                Of::Seconds => Some(Unit::Seconds),
            };
            let mut metric = encoder.encode_descriptor(def.name, def.help, unit.as_ref(), kind)?;
            for (labels, value) in series {
                write_value(&mut metric, def.kind, labels, value)?;
            }
        }
        Ok(())
    }
}

fn write_value(metric: &mut MetricEncoder<'_>, kind: Kind, labels: &Labels, value: &Value) -> fmt::Result {
    const NO_EXEMPLAR: Option<&Exemplar<Labels, f64>> = None;
    if *value == Value::Info {
        return metric.encode_info(labels);
    }
    let mut metric = metric.encode_family(labels)?;
    match value {
        Value::Number(number) if kind == Kind::Counter => metric.encode_counter(number, NO_EXEMPLAR),
        Value::Seconds(seconds) if kind == Kind::Counter => metric.encode_counter(seconds, NO_EXEMPLAR),
        // No gauge here comes near the end of i64, beyond which the crate refuses a number.
        Value::Number(number) => metric.encode_gauge(&i64::try_from(*number).unwrap_or(i64::MAX)),
        Value::Seconds(seconds) => metric.encode_gauge(seconds),
        Value::Histogram(counted, per_unit) => {
            let bounds = counted.buckets.iter().map(|(bound, count)| (*bound as f64 / per_unit, *count));
            let buckets: Vec<(f64, u64)> = bounds.chain([(f64::INFINITY, counted.beyond)]).collect();
            let sum = counted.sum as f64 / per_unit;
            metric.encode_histogram::<Labels>(sum, counted.count(), &buckets, None)
        }
        Value::Info => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::histogram::Histogram;

    const fn def(name: &'static str, kind: Kind, of: Of) -> Def {
        Def { name, kind, of, help: "Help" }
    }

    #[test]
    fn both_formats_are_as_their_readers_want_them() {
        let histogram = Histogram::new(&[1_000, 500_000]);
        [1, 400_000, 2_000_000].into_iter().for_each(|micros| histogram.add(micros));
        let families = vec![
            Family::by_label(def("p_mail", Kind::Counter, Of::Things), "class", [("5xx", 3)]),
            Family::by_label(def("p_disk", Kind::Gauge, Of::Bytes), "domain", [("a\"b\\c\nd", 7)]),
            Family::one(
                def("p_commit", Kind::Histogram, Of::Seconds),
                Value::Histogram(histogram.counted(), 1e6),
            ),
            Family {
                def: def("p_build", Kind::Info, Of::Things),
                series: vec![(vec![("v", "1".into())], Value::Info)],
            },
            Family { def: def("p_none", Kind::Gauge, Of::Things), series: Vec::new() },
        ];
        let expected = "# HELP p_mail_total Help\n# TYPE p_mail_total counter\np_mail_total{class=\"5xx\"} 3\n\
            # HELP p_disk_bytes Help\n# TYPE p_disk_bytes gauge\np_disk_bytes{domain=\"a\\\"b\\\\c\u{fffd}d\"} 7\n\
            # HELP p_commit_seconds Help\n# TYPE p_commit_seconds histogram\n\
            p_commit_seconds_bucket{le=\"0.001\"} 1\np_commit_seconds_bucket{le=\"0.5\"} 2\n\
            p_commit_seconds_bucket{le=\"+Inf\"} 3\n\
            p_commit_seconds_sum 2.400001\np_commit_seconds_count 3\n\
            # HELP p_build_info Help\n# TYPE p_build_info gauge\np_build_info{v=\"1\"} 1\n";
        assert_eq!(Format::Prometheus.write(families.clone()).unwrap(), expected);
        let open = Format::OpenMetrics.write(families).unwrap();
        assert!(open.contains("# TYPE p_mail counter\np_mail_total{class=\"5xx\"} 3\n"), "{open}");
        assert!(open.contains("# UNIT p_commit_seconds seconds\n") && open.ends_with("# EOF\n"), "{open}");
    }

    #[test]
    fn the_format_is_what_was_asked_for() {
        for (accept, expected) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/html,text/plain;q=0.5"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus),
            (Some("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.3"), Format::Prometheus),
            // Prometheus 2.42, and 3.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5, \
                     text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                ),
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::asked_for(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn no_label_is_without_end_or_hides_something() {
        assert_eq!(clean("a.test"), "a.test");
        assert_eq!(clean("a\r\n\u{202e}b"), "a\u{fffd}\u{fffd}\u{fffd}b");
        assert!(clean(&"\u{20ac}".repeat(1000)).len() <= LABEL_BYTES_MAX);
        assert!(clean(&"\0".repeat(1000)).len() <= LABEL_BYTES_MAX);
    }
}
