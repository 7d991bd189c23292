//! The certificate authority of a cluster, as an agent that holds the state runs it.
//!
//! `ca` knows how to make certificates and keeps nothing; here it meets the state: which root is active, where its key
//! lies (sealed), and what happens when the settings change. Several agents may run the same authority over one
//! store: each works from what is stored, and a change that was overtaken by another's is refused.

use std::sync::Arc;
use std::time::Duration;

use lictor_ca::limit::{Admission, Limiter, MAX_WAIT_OF_OWN};
use lictor_ca::provider::{Change, Provider, Rotation, Settings, Spelling};
use lictor_ca::rotate::{self, CrossSigning};
use lictor_ca::seal::Seal;
use lictor_ca::{Csr, IssuedCert, SigningKey, new_key_and_csr, renew};
use lictor_model::Opaque;
use lictor_model::acl::Caller;
use lictor_model::identity::{ServiceIdentity, TrustDomain};
use lictor_model::name::ServiceName;
use lictor_model::revision::Revision;
use lictor_model::root::{IssuedLeaf, Roots};
use lictor_state::reader::CaConfig;
use lictor_state::writer::CaChange;
use lictor_state::{Reader, State, Writer};
use lictor_task::{Stop, clock};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Error;
use crate::cluster::Certified;
use crate::error::chain;

/// How often old roots are looked through.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Between two tries for a turn when as many certificates as allowed are being signed.
const TURN_PAUSE: Duration = Duration::from_millis(10);
/// Under which the operator's own key is kept, sealed, beside those of the roots.
const CONFIGURED_KEY: &str = "configured";

/// The authority. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    state: State,
    writer: Writer,
    seal: Seal,
    datacenter: String,
    signer: Mutex<Option<Arc<Signer>>>,
    limiter: Mutex<Limiter>,
    /// The origin of the limiter's time.
    epoch: Instant,
    /// One change of the settings at a time.
    changing: tokio::sync::Mutex<()>,
}

/// The active root with its key, ready to sign, and the settings in force.
struct Signer {
    authority: lictor_ca::Authority,
    roots: Arc<Roots>,
    trust_domain: TrustDomain,
    settings: Settings,
    config: Arc<CaConfig>,
    roots_revision: Revision,
}

impl Signer {
    fn certified(&self, issued: IssuedCert) -> Certified {
        Certified {
            serial_number: issued.serial.to_string(),
            cert_pem: issued.cert_pem,
            service: issued.service,
            uri: issued.uri,
            valid_after: issued.validity.not_before,
            valid_before: issued.validity.not_after,
            root_id: self.roots.active().map(|root| root.id.clone()).unwrap_or_default(),
        }
    }
}

/// A leaf just issued.
pub(crate) struct Issued {
    pub(crate) leaf: IssuedLeaf,
    pub(crate) root_id: String,
    pub(crate) renew_after: Duration,
}

impl Issued {
    /// A new key and the request for its certificate: the request and the key, both PEM.
    pub(crate) fn request(
        trust_domain: &TrustDomain,
        datacenter: &str,
        service: &str,
    ) -> Result<(String, String), Error> {
        if service.is_empty() || service.contains('/') {
            return Err(Error::Refused("SPIFFE ID is not in the expected format".into()));
        }
        let identity = ServiceIdentity::new(trust_domain, datacenter, ServiceName::from(service));
        let request = new_key_and_csr(&identity).map_err(refused)?;
        Ok((request.csr_pem, request.key_pem.to_string()))
    }

    /// What a server has signed for a key of ours.
    pub(crate) fn certified(certified: Certified, key_pem: String) -> Issued {
        let Certified { serial_number, cert_pem, service, uri, valid_after, valid_before, root_id } = certified;
        let validity = lictor_ca::certificate::Validity { not_before: valid_after, not_after: valid_before };
        Issued {
            leaf: IssuedLeaf {
                serial_number,
                cert_pem,
                key_pem,
                service,
                uri,
                valid_after,
                valid_before,
                revision: Revision::ZERO,
            },
            root_id,
            renew_after: renewal(validity),
        }
    }
}

/// When a certificate that was just issued is to be renewed.
fn renewal(validity: lictor_ca::certificate::Validity) -> Duration {
    let now = clock::unix_seconds();
    let renew_in = renew::moment(validity, now, fastrand::f64()).saturating_sub(now);
    Duration::from_secs(u64::try_from(renew_in).unwrap_or_default())
}

/// How long to wait before a leaf is renewed because the root changed, when there are so many of them and the settings of
/// the authority are those of most.
pub(crate) fn usual_rotation_delay(leaves: usize) -> Duration {
    renew::after_rotation(leaves, Settings::default().limit, fastrand::f64())
}

fn refused(error: lictor_ca::Error) -> Error {
    Error::Refused(chain(&error))
}

fn refused_while(what: &str) -> impl Fn(lictor_ca::Error) -> Error {
    move |error| Error::Refused(format!("{what}: {}", chain(&error)))
}

impl Authority {
    /// Opens the authority of a cluster, and founds it when there is none yet. `file_config` is what configuration
    /// files say; it counts only for the founding, later the stored settings do.
    pub async fn open(
        state: State,
        writer: Writer,
        seal: Seal,
        datacenter: &str,
        file_config: &Opaque,
    ) -> Result<Authority, Error> {
        let authority = Authority {
            inner: Arc::new(Inner {
                state,
                writer,
                seal,
                datacenter: datacenter.to_owned(),
                signer: Mutex::new(None),
                limiter: Mutex::new(Limiter::new(Settings::default().limit)),
                epoch: Instant::now(),
                changing: tokio::sync::Mutex::new(()),
            }),
        };
        let reader = authority.inner.reader();
        if reader.ca_config().value.is_none()
            && let Err(error) = authority.found(file_config).await
        {
            // Another server may have founded it at the same time; then it is there now.
            reader.catch_up().await?;
            if reader.ca_config().value.is_none() {
                return Err(error);
            }
        }
        authority.signer().await?;
        Ok(authority)
    }

    async fn found(&self, file_config: &Opaque) -> Result<(), Error> {
        let inner = &self.inner;
        let settings = if file_config.is_empty() {
            Settings::default()
        } else {
            let given = Settings::parse(Some(file_config), Spelling::File, None, Rotation::WhenChanged)
                .map_err(refused_while("connect.ca_config"))?;
            // What is not said is shown with its default, as for a cluster whose operator says nothing.
            let mut shown = Settings::default().masked().unwrap_or_default();
            shown.extend(given.masked().unwrap_or_default());
            Settings::parse(Some(&shown), Spelling::Api, Some(&given), Rotation::WhenChanged)
                .map_err(refused_while("connect.ca_config"))?
        };
        let cluster_id = match file_config.get("cluster_id").and_then(|id| id.as_str()) {
            Some(id) => uuid::Uuid::parse_str(id)
                .map_err(|_| Error::Refused("cluster_id was supplied but was not a valid UUID".into()))?,
            None => uuid::Uuid::new_v4(),
        }
        .to_string();
        let trust_domain = TrustDomain::of_cluster(&cluster_id);
        let first = inner.make_root(&settings, &trust_domain)?;
        let roots = rotate::begin(&first, &trust_domain);
        inner
            .writer
            .change_ca(CaChange {
                provider: Provider::BuiltIn.as_str().into(),
                config: settings.masked(),
                cluster_id,
                sealed_keys: inner.sealed(&first, &settings)?,
                roots: roots.roots,
                based_on: Revision::ZERO,
            })
            .await?;
        Ok(())
    }

    /// The active root with its key; read again when the stored one is another.
    async fn signer(&self) -> Result<Arc<Signer>, Error> {
        let inner = &self.inner;
        let reader = inner.reader();
        let missing = || Error::Refused("cluster has no CA bootstrapped yet".into());
        let config = reader.ca_config().value.ok_or_else(missing)?;
        let answer = reader.roots();
        if let Some(signer) = inner.signer.lock().clone()
            && signer.config.modified == config.modified
            && signer.roots_revision == answer.index
        {
            return Ok(signer);
        }
        let roots = answer.value;
        let root = roots.active().ok_or_else(missing)?;
        let sealed = inner
            .writer
            .sealed_key(&root.id)
            .await?
            .ok_or_else(|| Error::Refused(format!("the signing key of root {} is not in the store", root.id)))?;
        let key = inner.seal.unseal(&sealed, &root.id).map_err(refused)?;
        let authority = lictor_ca::Authority::restore(key, &root.cert_pem).map_err(refused)?;
        let configured = match inner.writer.sealed_key(CONFIGURED_KEY).await? {
            Some(sealed) => Some(inner.seal.unseal_text(&sealed, CONFIGURED_KEY).map_err(refused)?),
            None => None,
        };
        let mut shown = config.config.clone();
        if let Some(shown) = &mut shown {
            shown.remove("PrivateKey");
        }
        let settings = Settings::restore(shown, configured.filter(|key| !key.is_empty())).map_err(refused)?;
        inner.limiter.lock().set(settings.limit);
        let signer = Arc::new(Signer {
            authority,
            trust_domain: roots.trust_domain.clone().ok_or_else(missing)?,
            roots,
            settings,
            config,
            roots_revision: answer.index,
        });
        *inner.signer.lock() = Some(Arc::clone(&signer));
        Ok(signer)
    }

    /// Makes a key and a certificate for a service of this datacenter.
    /// `patience` is how long it may wait for its turn.
    pub(crate) async fn issue_leaf(&self, service: &str, patience: Duration) -> Result<Issued, Error> {
        let signer = self.signer().await?;
        let (request, key_pem) = Issued::request(&signer.trust_domain, &self.inner.datacenter, service)?;
        let csr = Csr::from_pem(request.as_bytes()).map_err(refused)?;
        let issued = self.sign(&signer, &csr, patience).await?;
        Ok(Issued::certified(signer.certified(issued), key_pem))
    }

    /// Signs a request for the certificate of a service, if `may` says so of that service.
    pub(crate) async fn certify(&self, csr_pem: &str, may: impl FnOnce(&str) -> bool) -> Result<Certified, Error> {
        let csr = Csr::from_pem(csr_pem.as_bytes()).map_err(|error| Error::BadRequest(chain(&error)))?;
        if !may(csr.identity().service.as_str()) {
            return Err(Error::Denied);
        }
        let signer = self.signer().await?;
        let issued = self.sign(&signer, &csr, MAX_WAIT_OF_OWN).await?;
        Ok(signer.certified(issued))
    }

    /// How long to wait before a leaf is renewed because the root changed, when there are so many of them.
    pub(crate) fn rotation_delay(&self, leaves: usize) -> Duration {
        let limit = self.inner.signer.lock().as_ref().map_or(Settings::default().limit, |s| s.settings.limit);
        renew::after_rotation(leaves, limit, fastrand::f64())
    }

    /// Signs a request, within the limits of the settings.
    async fn sign(&self, signer: &Signer, csr: &Csr, patience: Duration) -> Result<IssuedCert, Error> {
        csr.in_trust_domain(&signer.trust_domain).map_err(refused)?;
        csr.in_datacenter(&self.inner.datacenter).map_err(refused)?;
        let _turn = self.inner.turn(patience).await?;
        let intermediates = signer.roots.active().map(|root| root.intermediates_pem.as_slice()).unwrap_or_default();
        signer
            .authority
            .sign_leaf(intermediates, csr, clock::unix_seconds(), signer.settings.leaf_ttl)
            .map_err(|error| Error::Refused(format!("error generating certificate: {}", chain(&error))))
    }

    /// The settings as shown: provider, settings with secrets masked, and when they were created and changed.
    pub(crate) fn configuration(&self) -> Result<(String, Option<Opaque>, Revision, Revision), Error> {
        let config = self
            .inner
            .reader()
            .ca_config()
            .value
            .ok_or_else(|| Error::Refused("cluster has no CA bootstrapped yet".into()))?;
        // What is stored is masked already: the secret lies beside it, sealed.
        Ok((config.provider.clone(), config.config.clone(), config.created, config.modified))
    }

    /// Changes the settings; another key or root, or an explicit wish (`ForceRotate`), means a rotation.
    pub(crate) async fn configure(&self, provider: &str, mut config: Option<Opaque>) -> Result<(), Error> {
        let inner = &self.inner;
        let _turn = inner.changing.lock().await;
        let provider = Provider::parse(provider).map_err(refused_while("could not initialize provider"))?;
        let mut wish = |name: &str| {
            config.as_mut().and_then(|config| config.remove(name)).and_then(|value| value.as_bool()).unwrap_or(false)
        };
        let rotation = if wish("ForceRotate") { Rotation::Forced } else { Rotation::WhenChanged };
        let cross_signing =
            if wish("ForceWithoutCrossSigning") { CrossSigning::Skipped } else { CrossSigning::Required };
        let signer = self.signer().await?;
        let settings = Settings::parse(config.as_ref(), Spelling::Api, Some(&signer.settings), rotation)
            .map_err(refused_while("error configuring provider"))?;
        let (roots, sealed_keys) = match settings.change_from(&signer.settings, rotation) {
            Change::Nothing => return Ok(()),
            Change::Settings => (signer.roots.roots.clone(), vec![inner.sealed_setting(&settings)?]),
            Change::Root => {
                let next = inner.make_root(&settings, &signer.trust_domain)?;
                let next_id = next.certificate().fingerprint();
                if signer.roots.active().is_some_and(|active| active.id == next_id) {
                    (signer.roots.roots.clone(), vec![inner.sealed_setting(&settings)?])
                } else {
                    let roots = rotate::follow(
                        &signer.roots,
                        &signer.authority,
                        &next,
                        &signer.trust_domain,
                        cross_signing,
                        clock::unix_seconds(),
                    )
                    .map_err(refused_while("error generating CA certificate"))?;
                    tracing::info!("connect: CA rotated to new root under provider {:?}", provider.as_str());
                    (roots.roots, inner.sealed(&next, &settings)?)
                }
            }
        };
        inner
            .writer
            .change_ca(CaChange {
                provider: provider.as_str().into(),
                config: settings.masked(),
                cluster_id: signer.config.cluster_id.clone(),
                roots,
                sealed_keys,
                based_on: signer.config.modified,
            })
            .await?;
        tracing::info!("connect: CA provider config updated");
        Ok(())
    }

    /// Whether this agent can open a sealed key; the error says why not.
    pub(crate) fn opens(&self, id: &str, sealed: &[u8]) -> Result<(), lictor_ca::Error> {
        self.inner.seal.unseal_text(sealed, id).map(drop)
    }

    /// Drops roots that nobody needs any more, until told to stop.
    pub(crate) async fn keep_roots(self, stop: Stop) {
        while stop.or_stopped(tokio::time::sleep(PRUNE_INTERVAL)).await.is_some() {
            if let Err(error) = self.prune().await {
                tracing::warn!("connect: cannot prune old root CAs: {}", chain(&error));
            }
        }
    }

    async fn prune(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let _turn = inner.changing.lock().await;
        let signer = self.signer().await?;
        let Some((roots, removed)) = rotate::prune(&signer.roots, signer.settings.leaf_ttl, clock::unix_seconds())
        else {
            return Ok(());
        };
        inner
            .writer
            .change_ca(CaChange {
                provider: signer.config.provider.clone(),
                config: signer.config.config.clone(),
                cluster_id: signer.config.cluster_id.clone(),
                roots: roots.roots,
                sealed_keys: Vec::new(),
                based_on: signer.config.modified,
            })
            .await?;
        for id in removed {
            tracing::info!("connect: pruning old unused root CA (ID: {id})");
        }
        Ok(())
    }
}

impl Inner {
    fn reader(&self) -> Reader {
        self.state.reader(&Caller::management(""))
    }

    /// The root that settings ask for: the operator's, or a new one.
    fn make_root(&self, settings: &Settings, trust_domain: &TrustDomain) -> Result<lictor_ca::Authority, Error> {
        let generating = refused_while("error generating CA root certificate");
        let now = clock::unix_seconds();
        let key = match settings.private_key() {
            Some(pem) => SigningKey::from_pem(pem).map_err(&generating)?,
            None => SigningKey::generate().map_err(&generating)?,
        };
        match settings.root_cert() {
            Some(pem) => lictor_ca::Authority::adopt(key, pem, trust_domain, now),
            // Small numbers that grow, as people know them; they identify nothing.
            None => lictor_ca::Authority::generate(key, trust_domain, self.reader().current().0 + 1, now),
        }
        .map_err(generating)
    }

    /// The keys to store for a new root, sealed: its own, and the one the operator configured.
    fn sealed(&self, authority: &lictor_ca::Authority, settings: &Settings) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let id = authority.certificate().fingerprint();
        let sealed = self.seal.seal(authority.key(), &id).map_err(refused)?;
        Ok(vec![(id, sealed), self.sealed_setting(settings)?])
    }

    fn sealed_setting(&self, settings: &Settings) -> Result<(String, Vec<u8>), Error> {
        let secret = settings.private_key().unwrap_or_default();
        let sealed = self.seal.seal_text(secret, CONFIGURED_KEY).map_err(refused)?;
        Ok((CONFIGURED_KEY.to_owned(), sealed))
    }

    /// A turn to sign, or the refusal that clients know.
    async fn turn(&self, patience: Duration) -> Result<Turn<'_>, Error> {
        let until = Instant::now() + patience;
        loop {
            let admission = self.limiter.lock().admit(self.epoch.elapsed(), patience);
            match admission {
                Admission::Granted(wait) => {
                    let turn = Turn { limiter: &self.limiter };
                    tokio::time::sleep(wait).await;
                    return Ok(turn);
                }
                Admission::Busy if Instant::now() < until => tokio::time::sleep(TURN_PAUSE).await,
                Admission::Busy | Admission::Refused => {
                    return Err(Error::RateLimited("Rate limit reached, try again later".into()));
                }
            }
        }
    }
}

/// A turn to sign; given back when dropped.
struct Turn<'a> {
    limiter: &'a Mutex<Limiter>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.limiter.lock().release();
    }
}
