//! All listeners, and what a reload makes of them: afterwards they are those that a start with the new settings would
//! have, or nothing has changed.
//!
//! A listener stays where the new settings want the same socket, and its file was not removed. `[::]` with `0.0.0.0`
//! beside it is another socket than `[::]` alone (`sockets.rs`), and an address may be in use by a listener that the
//! new settings no longer have: such listeners are closed before the others are opened, and opened again should that
//! fail. Connections that wait are taken before, and new ones are refused for that moment.
//!
//! A socket that systemd opened is never closed from here: connections would wait in it for an answer that never
//! comes. Settings without it are refused (`Sockets::all_listed`).

use std::sync::Arc;

use crate::config::{ListenAddress, ListenSettings};

use crate::submission::limits::sessions::CurrentSettings;
use crate::submission::session::listener::Listener;
use crate::submission::session::service::{Service, SessionResources, StartError};
use crate::submission::session::sockets::{Bound, Opened, Sockets};

/// Those that listen, in the order of the settings.
#[derive(Default)]
pub(in crate::submission) struct Listeners(Vec<Listener>);

/// A listener that was closed to make room, as it can be opened again.
struct MadeRoom {
    place: usize,
    bound: Bound,
    settings: CurrentSettings,
}

impl Listeners {
    /// # Errors
    /// Nothing listens then.
    pub(in crate::submission) fn start(
        listen: &[ListenSettings],
        sockets: &Sockets,
        resources: &Arc<SessionResources>,
    ) -> Result<Listeners, StartError> {
        let opened = listen.iter().map(|one| sockets.open(one, listen)).collect::<Result<Vec<_>, _>>()?;
        let start = |(one, socket)| start(one, sockets.wanted(one, listen), socket, resources);
        Ok(Listeners(listen.iter().zip(opened).map(start).collect::<Result<_, _>>()?))
    }

    /// Where they listen, in the order of the settings.
    pub(in crate::submission) fn addresses(&self) -> Vec<ListenAddress> {
        self.0.iter().map(Listener::local_address).collect()
    }

    /// Goes over to new settings and a new service.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub(in crate::submission) fn reload(
        &mut self,
        listen: &[ListenSettings],
        service: Service,
        sockets: &Sockets,
        resources: &Arc<SessionResources>,
    ) -> Result<(), StartError> {
        let before = resources.service();
        // With their places, so that they can be put back.
        let mut leaving: Vec<(usize, Listener)> =
            std::mem::take(&mut self.0).into_iter().enumerate().collect();
        let mut take = |one: &ListenSettings| {
            let wanted = sockets.wanted(one, listen);
            let at = leaving
                .iter()
                .position(|(_, listener)| *listener.bound() == wanted && listener.is_in_place())?;
            Some(leaving.remove(at))
        };
        let kept: Vec<Option<(usize, Listener)>> = listen.iter().map(&mut take).collect();
        let new: Vec<&ListenSettings> =
            listen.iter().zip(&kept).filter(|(_, kept)| kept.is_none()).map(|(one, _)| one).collect();
        let (first, leaving): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|(_, listener)| {
            !sockets.has(&listener.bound().address)
                && new.iter().any(|one| listener.is_in_the_way_of(&one.address))
        });
        let made_room: Vec<MadeRoom> = first.into_iter().map(MadeRoom::of).collect();

        match open(&new, listen, service, sockets, resources, &made_room) {
            Ok(started) => {
                let mut started = started.into_iter();
                for (one, kept) in listen.iter().zip(kept) {
                    kept.iter().for_each(|(_, listener)| listener.set(one));
                    self.0.extend(kept.map(|(_, listener)| listener).or_else(|| started.next()));
                }
                let goes_on = |gone: &&MadeRoom| listen.iter().any(|one| one.address == gone.bound.address);
                made_room.iter().filter(|gone| !goes_on(gone)).for_each(|gone| distrust(&gone.settings));
                for (_, listener) in leaving {
                    distrust(&listener.settings());
                    listener.retire();
                }
                Ok(())
            }
            Err(error) => {
                resources.set_service(before);
                let mut old: Vec<(usize, Listener)> = kept.into_iter().flatten().chain(leaving).collect();
                old.extend(made_room.into_iter().filter_map(|gone| gone.back(resources)));
                old.sort_by_key(|(place, _)| *place);
                self.0 = old.into_iter().map(|(_, listener)| listener).collect();
                Err(error)
            }
        }
    }

    /// Accepts no more. Connections that were accepted go on.
    pub(in crate::submission) fn stop(self) {
        self.0.into_iter().for_each(Listener::stop);
    }
}

/// Opens and starts what is new, with the new service in force.
fn open(
    new: &[&ListenSettings],
    listen: &[ListenSettings],
    service: Service,
    sockets: &Sockets,
    resources: &Arc<SessionResources>,
    made_room: &[MadeRoom],
) -> Result<Vec<Listener>, StartError> {
    let opened = new.iter().map(|one| sockets.open(one, listen)).collect::<Result<Vec<_>, _>>()?;
    resources.set_service(Arc::new(service));
    let mut started = Vec::new();
    for (one, socket) in new.iter().zip(opened) {
        let wanted = sockets.wanted(one, listen);
        // The same address by another socket: its sessions go by the new settings too.
        let listener = match made_room.iter().find(|gone| gone.bound.address == one.address) {
            Some(gone) => Listener::start(wanted, Arc::clone(&gone.settings), socket, resources),
            None => start(one, wanted, socket, resources),
        };
        match listener {
            Ok(listener) => started.push(listener),
            Err(error) => {
                started.into_iter().for_each(Listener::stop);
                return Err(error);
            }
        }
    }
    // Only now that nothing can fail: who is trusted changes for the sessions that there are.
    new.iter().zip(&started).for_each(|(one, listener)| listener.set(one));
    Ok(started)
}

fn start(
    listen: &ListenSettings,
    bound: Bound,
    opened: Opened,
    resources: &Arc<SessionResources>,
) -> Result<Listener, StartError> {
    Listener::start(bound, CurrentSettings::new(Arc::new(listen.clone()).into()), opened, resources)
}

/// Nobody is trusted any more by a listener that is gone; its sessions go on.
fn distrust(settings: &CurrentSettings) {
    let mut settings = settings.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    *settings = Arc::new(ListenSettings { trusted: Vec::new(), local_users: false, ..(**settings).clone() });
}

impl MadeRoom {
    fn of((place, listener): (usize, Listener)) -> MadeRoom {
        let (bound, settings) = (listener.bound().clone(), listener.settings());
        listener.retire();
        MadeRoom { place, bound, settings }
    }

    /// The listener as it was. It can fail where somebody else took the address meanwhile.
    fn back(self, resources: &Arc<SessionResources>) -> Option<(usize, Listener)> {
        let failed = |source| StartError::Listen {
            address: self.bound.address.clone(),
            source,
            remedy: "nothing listens there until the next reload",
        };
        let opened = self.bound.open().map_err(failed);
        match opened.and_then(|opened| Listener::start(self.bound.clone(), self.settings, opened, resources))
        {
            Ok(listener) => Some((self.place, listener)),
            Err(error) => {
                log::error!("{error}");
                None
            }
        }
    }
}
