//! The middleware as a layer of tower's.
//!
//! Must never repeat a request whose body it can't send again.

use std::{
    error::Error,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, header::AUTHORIZATION};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{Bearer, Peeked, header, is_dead, is_refused};
use crate::User;

/// As tower's own layers have it.
type BoxError = Box<dyn Error + Send + Sync>;

/// Makes a copy of a request's body, if there can be one.
type Replay<B> = fn(&B) -> Option<B>;

/// Layers [`Bearer`] around a service of HTTP requests. Where redirects are followed, that belongs around this layer, so that each
/// request is judged by where it goes.
pub struct BearerLayer<B> {
    bearer: Bearer,
    replay: Replay<B>,
}

/// The service that a [`BearerLayer`] makes. Its error is the inner one's, or a [`ClientError`](crate::ClientError) where there is no token.
pub struct BearerService<S, B> {
    inner: S,
    bearer: Bearer,
    replay: Replay<B>,
}

impl Bearer {
    /// As a layer. `replay` makes a copy of a request's body: `|_| None` where there can't be one, and a 401 is then answered as it
    /// is, after the complaint.
    pub fn layer<B>(self, replay: fn(&B) -> Option<B>) -> BearerLayer<B> {
        BearerLayer { bearer: self, replay }
    }
}

impl<B> Clone for BearerLayer<B> {
    fn clone(&self) -> Self {
        Self { bearer: self.bearer.clone(), replay: self.replay }
    }
}

impl<S: Clone, B> Clone for BearerService<S, B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), bearer: self.bearer.clone(), replay: self.replay }
    }
}

impl<B> fmt::Debug for BearerLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerLayer").field("bearer", &self.bearer).finish_non_exhaustive()
    }
}

impl<S, B> fmt::Debug for BearerService<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerService").field("bearer", &self.bearer).finish_non_exhaustive()
    }
}

impl<S, B> Layer<S> for BearerLayer<B> {
    type Service = BearerService<S, B>;

    fn layer(&self, inner: S) -> Self::Service {
        BearerService { inner, bearer: self.bearer.clone(), replay: self.replay }
    }
}

impl<S, B, R> Service<Request<B>> for BearerService<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Body + Unpin + Send + 'static,
    R::Data: AsRef<[u8]> + Unpin + Send,
    R::Error: Unpin + Send,
{
    type Response = Response<Peeked<R>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready serves this call; a clone takes its place.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(answer(inner, self.bearer.clone(), self.replay, request))
    }
}

async fn answer<S, B, R>(
    mut inner: S,
    bearer: Bearer,
    replay: Replay<B>,
    request: Request<B>,
) -> Result<Response<Peeked<R>>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body + Unpin,
    R::Data: AsRef<[u8]>,
{
    let (mut parts, body) = request.into_parts();
    let own = parts.extensions.get::<User>().cloned();
    let Some(token) = bearer.token(&parts.uri, &mut parts.headers, own).await? else {
        let plain = inner.call(Request::from_parts(parts, body)).await.map_err(Into::into)?;
        return Ok(plain.map(Peeked::unread));
    };
    let again = replay(&body).map(|body| (parts.clone(), body));
    parts.headers.insert(AUTHORIZATION, header(&token)?);
    let answer = inner.call(Request::from_parts(parts, body)).await.map_err(Into::into)?;
    if !is_refused(answer.status()) {
        return Ok(answer.map(Peeked::unread));
    }
    let (head, body) = answer.into_parts();
    let (body, seen) = Peeked::peek(body).await;
    if !is_dead(&head.headers, &seen) {
        return Ok(Response::from_parts(head, body));
    }
    let Some((mut parts, again)) = again else {
        bearer.source.rejected(&token);
        return Ok(Response::from_parts(head, body));
    };
    let Some(next) = bearer.next(&token).await else { return Ok(Response::from_parts(head, body)) };
    parts.headers.insert(AUTHORIZATION, header(&next)?);
    poll_fn(|context| inner.poll_ready(context)).await.map_err(Into::into)?;
    let answer = inner.call(Request::from_parts(parts, again)).await.map_err(Into::into)?;
    Ok(answer.map(Peeked::unread))
}
