//! The client that a source's calls go over, made anew as the files behind it are replaced.
//!
//! Must never give a client that works up for files that can't be used: they may be half of a pair that is being replaced; nor have more
//! than one call wait for files while there is one.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tonic::Status;

use super::{Ask, Asking, Identity, User, now};
use crate::{
    blocking::BlockingPool,
    client::{Client, ClientError, Query, Security},
};

/// The files are looked at by whichever call comes, but no more often than this: there are few calls, and three small files.
const FILES_EVERY: Duration = Duration::from_secs(1);
/// The call's own time is over a little sooner, and its error says more.
const LATE: Duration = Duration::from_millis(50);
/// Files that take longer to read are not waited for.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Brokers {
    endpoints: Vec<String>,
    ca_file: Option<PathBuf>,
    identity: Option<Identity>,
    /// Of one call, all included.
    time: Duration,
    reading: BlockingPool,
    made: Mutex<Option<Made>>,
    /// Held while the files are read.
    renewing: tokio::sync::Mutex<()>,
}

struct Made {
    client: Client,
    /// What the client was made of.
    security: Security,
    /// When the files were last read.
    looked: Instant,
}

impl Brokers {
    pub(super) fn new(endpoints: Vec<String>, ca_file: Option<PathBuf>, identity: Option<Identity>, time: Duration) -> Self {
        Self {
            endpoints,
            ca_file,
            identity,
            time,
            reading: BlockingPool::default(),
            made: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
        }
    }

    /// The client, of the files as they are or, where they can't be used, as they were. While they are read, the others go on with
    /// the one that there is.
    async fn client(&self) -> Result<Client, ClientError> {
        let (before, is_due) = self.at_hand();
        let reading = match (before, is_due) {
            (Some(client), false) => return Ok(client),
            (Some(client), true) => match self.renewing.try_lock() {
                Ok(reading) => reading,
                Err(_somebody_does) => return Ok(client),
            },
            (None, _) => self.renewing.lock().await,
        };
        // Whoever was first may have made it in the meantime.
        if let (Some(client), false) = self.at_hand() {
            return Ok(client);
        }
        let fresh = match self.read().await {
            Ok(security) => self.made_of(security),
            Err(error) => Err(error),
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match (fresh, &mut *made) {
            (Ok(fresh), made) => made.insert(fresh).client.clone(),
            (Err(_), Some(works)) => {
                works.looked = now();
                works.client.clone()
            }
            (Err(error), None) => return Err(error),
        };
        drop((made, reading));
        Ok(client)
    }

    /// The client that there is, and whether its files are to be looked at.
    fn at_hand(&self) -> (Option<Client>, bool) {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = made.as_ref().is_none_or(|made| made.looked + FILES_EVERY <= now());
        (made.as_ref().map(|made| made.client.clone()), is_due)
    }

    /// The client of these: the one that there is, if it is of the same.
    fn made_of(&self, security: Security) -> Result<Made, ClientError> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let same = made.as_ref().filter(|made| made.security == security).map(|made| made.client.clone());
        drop(made);
        let client = match same {
            Some(client) => client,
            None => Client::balanced_over(&self.endpoints, security.clone())?.timeout(self.time),
        };
        Ok(Made { client, security, looked: now() })
    }

    async fn read(&self) -> Result<Security, ClientError> {
        let (certificate, token_file) = match &self.identity {
            None => (None, None),
            Some(Identity::Certificate { certificate_file, key_file }) => {
                (Some((certificate_file.clone(), key_file.clone())), None)
            }
            Some(Identity::TokenFile(file)) => (None, Some(file.clone())),
        };
        let ca_file = self.ca_file.clone();
        if ca_file.is_none() && certificate.is_none() {
            return Ok(Security { token_file, ..Security::default() });
        }
        let reading = self.reading.run(move || {
            let read = |path: PathBuf| {
                fs::read(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
            };
            let ca_pem = ca_file.map(read).transpose()?;
            let identity_pem = certificate.map(|(certificate, key)| Ok::<_, io::Error>((read(certificate)?, read(key)?)));
            Ok(Security { ca_pem, identity_pem: identity_pem.transpose()?, token_file })
        });
        let late = |_late| io::Error::new(io::ErrorKind::TimedOut, "the files can't be read in time");
        let read = timeout(READ_TIMEOUT, reading).await.map_err(late).and_then(|read| read);
        read.map_err(|error| ClientError::Security(error.to_string()))
    }
}

impl Ask for Brokers {
    fn ask<'a>(&'a self, user: &'a User, rejected: Vec<String>) -> Asking<'a> {
        Box::pin(async move {
            let query = Query { rejected_token_ids: rejected, ..Query::default() };
            let asking = async { self.client().await?.token_with(user.merchant_id(), user.number(), query).await };
            let late = |_late| {
                let text = format!("no answer within {:.1} s", self.time.as_secs_f64());
                ClientError::Status(Box::new(Status::deadline_exceeded(text)))
            };
            timeout(self.time + LATE, asking).await.map_err(late)?
        })
    }
}
