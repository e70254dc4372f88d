//! What is held to at one host: its rows of `host_settings`, in memory (pure).
//!
//! A setting that leaves a feature out holds until its `retry_at`. Then one connection tries the feature, and the
//! others go on without it: if it works the setting is forgotten, if not it is found again. A limit rises by itself
//! (`adaptive.rs`).

use crate::clock::STEP_SECS;
use crate::mail::Reply;
use crate::queue::{HostSetting, Setting};

use crate::delivery::host::adaptive::AdaptiveLimit;

/// How long the connection that tries a feature again may take to find out: two handshakes that hang, and some more.
const TRIAL_SECS: i64 = 180;

/// How long a feature is left out.
pub(in crate::delivery) fn lifetime_secs(setting: Setting) -> i64 {
    match setting {
        // Somebody who breaks one handshake on purpose must not read along for long; and a host that was merely in
        // trouble is soon back. An hour, since each new trial may cost the two minutes of two handshakes that
        // hang.
        Setting::Plaintext => 3600,
        // Software and middleboxes are mended over days. Nothing is read by others meanwhile, or slow; and what a
        // host swallows that it got in a single write is delivered over and over.
        _ => 86_400,
    }
}

/// At most one of each kind.
#[derive(Debug, Default)]
pub(super) struct Settings(Vec<HostSetting>);

impl Settings {
    pub(super) fn add(&mut self, row: HostSetting) {
        self.remove(row.setting.name());
        self.0.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&HostSetting> {
        self.0.iter().find(|row| row.setting.name() == name)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<HostSetting> {
        let at = self.0.iter().position(|row| row.setting.name() == name)?;
        Some(self.0.swap_remove(at))
    }

    /// When one of them changed last.
    pub(super) fn changed_at(&self) -> i64 {
        self.0.iter().map(|row| row.changed_at).max().unwrap_or(i64::MIN)
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|row| row.setting.name()).collect()
    }

    /// Forgets features that nobody has tried again since they were to be.
    pub(super) fn forget_expired(&mut self, now: i64) {
        self.0.retain(|row| row.retry_at.is_none_or(|retry_at| retry_at > now));
    }

    /// What is to be left out of the next connection. Nothing too for the one that is to try again.
    pub(super) fn in_force(&mut self, name: &str, now: i64) -> Option<Setting> {
        let row = self.0.iter_mut().find(|row| row.setting.name() == name)?;
        // A row from the future was written before the clock was set back: nobody knows how old it is.
        let is_from_future = row.changed_at > now.saturating_add(STEP_SECS);
        if row.retry_at.is_none_or(|retry_at| retry_at > now && !is_from_future) {
            return Some(row.setting);
        }
        (row.retry_at, row.changed_at) = (Some(now + TRIAL_SECS), row.changed_at.min(now));
        None
    }

    /// What a connection that stands has to leave out. While a trial runs, or is due, nothing: the connection that
    /// tries a feature may be this one, and only its next message shows whether it works.
    pub(super) fn binds_standing(&self, name: &str, now: i64) -> bool {
        let is_far = |retry_at: i64| retry_at > now.saturating_add(TRIAL_SECS);
        self.get(name).is_some_and(|row| row.retry_at.is_none_or(is_far))
    }

    /// The feature failed like this, and the host does without. Gives the row to be written, and whether that is
    /// news.
    pub(super) fn found(&mut self, mx: &str, setting: Setting, why: &Reply, now: i64) -> (HostSetting, bool) {
        let before = self.remove(setting.name()).filter(|row| row.setting == setting);
        let row = HostSetting {
            mx: mx.to_owned(),
            setting,
            last_reply: Some(why.marked()),
            changed_at: before.as_ref().map_or(now, |row| row.changed_at.min(now)),
            retry_at: Some(now + lifetime_secs(setting)),
        };
        self.0.push(row.clone());
        (row, before.is_none())
    }

    /// The feature works. What somebody wrote into the table for longer than we would have stays.
    pub(super) fn ended(&mut self, name: &str, now: i64) -> Option<Setting> {
        let row = self.get(name)?;
        let is_ours = row.retry_at.is_some_and(|retry_at| retry_at <= now + lifetime_secs(row.setting));
        if is_ours { self.remove(name).map(|row| row.setting) } else { None }
    }

    /// What was learnt of limits.
    pub(super) fn limit(&self) -> AdaptiveLimit {
        let mut limit = AdaptiveLimit::default();
        for row in &self.0 {
            match row.setting {
                Setting::Connections(most) => limit.connections = Some(most.max(1) as usize),
                Setting::MessagesPerMinute(most) => limit.per_minute = Some(most.max(1)),
                _ => continue,
            }
            limit.changed_at = limit.changed_at.max(row.changed_at);
        }
        limit
    }

    /// A limit instead of the one there was, for this reason. Gives the rows to be written, and the names of those to
    /// be deleted.
    pub(super) fn set_limit(
        &mut self,
        mx: &str,
        limit: AdaptiveLimit,
        last_reply: Option<&str>,
    ) -> (Vec<HostSetting>, Vec<&'static str>) {
        let connections =
            limit.connections.map(|most| Setting::Connections(u32::try_from(most).unwrap_or(u32::MAX)));
        let per_minute = limit.per_minute.map(Setting::MessagesPerMinute);
        let wanted: Vec<Setting> = connections.into_iter().chain(per_minute).collect();
        let is_new = |setting: &Setting| self.get(setting.name()).is_none_or(|row| row.setting != *setting);
        let mut changed: Vec<Setting> = wanted.iter().copied().filter(is_new).collect();
        // As low as it can be already: said once more.
        if changed.is_empty() {
            changed = wanted;
        }
        let gone = [
            (limit.connections.is_none(), "connections"),
            (limit.per_minute.is_none(), "messages_per_minute"),
        ];
        let gone = gone.into_iter().filter_map(|(gone, name)| gone.then_some(name));
        let deleted = gone.filter(|name| self.remove(name).is_some()).collect();
        let row = |setting| HostSetting {
            mx: mx.to_owned(),
            setting,
            last_reply: last_reply.map(str::to_owned),
            changed_at: limit.changed_at,
            retry_at: None,
        };
        let written: Vec<HostSetting> = changed.into_iter().map(row).collect();
        written.iter().cloned().for_each(|row| self.add(row));
        (written, deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Setting::{NoChunking, NoPipelining, NoPostQuantum, NoReuse, NoSingleWrite, Plaintext};

    const BROKEN: Reply = Reply::bare(421, "broken");

    #[test]
    fn a_setting_holds_for_its_time_and_then_one_connection_tries_without() {
        for (setting, secs) in [
            (Plaintext, 3600),
            (NoPostQuantum, 86_400),
            (NoPipelining, 86_400),
            (NoChunking, 86_400),
            (NoSingleWrite, 86_400),
            (NoReuse, 86_400),
        ] {
            let (mut settings, name) = (Settings::default(), setting.name());
            assert_eq!(settings.in_force(name, 1000), None);
            assert!(settings.found("mx.test", setting, &BROKEN, 1000).1, "news");
            assert_eq!(settings.in_force(name, 1000 + secs - 1), Some(setting));
            let over = 1000 + secs;
            assert!(settings.binds_standing(name, 1000), "those that stand too");
            assert_eq!(settings.in_force(name, over), None, "the one that tries");
            assert!(!settings.binds_standing(name, over), "its next message");
            assert!(!settings.binds_standing(name, over + TRIAL_SECS), "and a late one");
            assert_eq!(settings.in_force(name, over), Some(setting), "the others");
            // It never came back to say.
            assert_eq!(settings.in_force(name, over + TRIAL_SECS), None);
            let (row, is_news) = settings.found("mx.test", setting, &BROKEN, over);
            assert_eq!((row.changed_at, is_news), (1000, false), "known since then");
            assert_eq!(settings.in_force(name, over + secs - 1), Some(setting), "renewed");
            assert_eq!(settings.ended(name, over), Some(setting));
            assert!(settings.is_empty());
        }
    }

    #[test]
    fn a_host_can_need_one_of_each_kind_and_the_later_of_a_kind_counts() {
        let mut settings = Settings::default();
        for setting in [NoPostQuantum, NoPipelining, NoChunking, Plaintext] {
            settings.found("mx.test", setting, &BROKEN, 0);
        }
        assert_eq!(settings.in_force("tls", 0), Some(Plaintext));
        settings.ended("tls", 0);
        assert_eq!(settings.in_force("tls", 0), None);
        assert_eq!(settings.in_force("pipelining", 0), Some(NoPipelining));
        assert_eq!(settings.in_force("chunking", 0), Some(NoChunking));
    }

    #[test]
    fn a_row_that_somebody_wrote_for_longer_outlasts_a_success() {
        let mut settings = Settings::default();
        let (row, _) = settings.found("mx.test", NoPipelining, &BROKEN, 0);
        settings.add(HostSetting { retry_at: Some(86_401), ..row });
        assert_eq!(settings.ended("pipelining", 0), None);
        assert_eq!(settings.ended("pipelining", 1), Some(NoPipelining));
    }

    #[test]
    fn a_limit_is_two_rows_and_only_what_changed_is_written() {
        let mut settings = Settings::default();
        let limit =
            |connections, per_minute, changed_at| AdaptiveLimit { connections, per_minute, changed_at };
        let mut set = |limit, reply| {
            let (written, deleted) = settings.set_limit("mx.test", limit, reply);
            assert_eq!(settings.limit(), limit);
            let written: Vec<_> = written.into_iter().map(|row| (row.setting, row.last_reply)).collect();
            (written, deleted)
        };
        let (four, thirty) = (Setting::Connections(4), Setting::MessagesPerMinute(30));
        let said = |reply: &str| Some(reply.to_owned());
        assert_eq!(set(limit(Some(4), None, 1), Some("a")), (vec![(four, said("a"))], vec![]));
        assert_eq!(set(limit(Some(4), Some(30), 2), Some("b")), (vec![(thirty, said("b"))], vec![]));
        let both = vec![(four, said("c")), (thirty, said("c"))];
        assert_eq!(set(limit(Some(4), Some(30), 3), Some("c")), (both, vec![]), "said once more");
        let five = Setting::Connections(5);
        assert_eq!(set(limit(Some(5), None, 4), None), (vec![(five, None)], vec!["messages_per_minute"]));
        assert_eq!(set(AdaptiveLimit::default(), None), (vec![], vec!["connections"]));
        assert!(settings.is_empty());
    }

    /// What is learnt is tried again after a day at the latest by any clock; what somebody chose stays.
    #[test]
    fn a_setting_from_the_future_is_tried_again_at_once() {
        let name = Setting::NoPipelining.name();
        let reply = Reply::new(503, crate::mail::Enhanced(5, 5, 1), "no");
        for back in [3_600, 365 * 86_400] {
            let mut settings = Settings::default();
            let then = 1_000_000_000;
            settings.found("mx", Setting::NoPipelining, &reply, then);
            assert_eq!(settings.in_force(name, then + 60), Some(Setting::NoPipelining));
            let now = then - back;
            assert_eq!(settings.in_force(name, now), None, "this one tries, {back} s back");
            assert_eq!(
                settings.in_force(name, now + 1),
                Some(Setting::NoPipelining),
                "and the others do not"
            );
            let (row, _) = settings.found("mx", Setting::NoPipelining, &reply, now);
            assert_eq!((row.changed_at, row.retry_at), (now, Some(now + 86_400)));
        }
        let mut settings = Settings::default();
        let by_hand = HostSetting {
            mx: "mx".to_owned(),
            setting: Setting::NoPipelining,
            last_reply: None,
            changed_at: 1_000_000_000,
            retry_at: Some(4_000_000_000),
        };
        settings.add(by_hand);
        assert_eq!(settings.in_force(name, 2_000_000_000), Some(Setting::NoPipelining));
    }
}
