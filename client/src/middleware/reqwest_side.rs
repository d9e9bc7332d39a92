//! The middleware for reqwest.
//!
//! Must never repeat a request whose body it can't send again.

use http::{Extensions, Uri, header::AUTHORIZATION, response::Builder};
use reqwest::{Body, Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{Error, Middleware, Next, Result};

use super::{Bearer, Origin, Peeked, header, is_dead, is_refused};
use crate::User;

/// Redirects are reqwest's own, below this: it takes `Authorization` off where they lead to another origin, and puts none on.
#[tonic::async_trait]
impl Middleware for Bearer {
    async fn handle(&self, mut request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        let own = extensions.get::<User>().cloned();
        let uri = request.url().as_str().parse::<Uri>().unwrap_or_default();
        let token = self.token(&uri, request.headers_mut(), own).await.map_err(Error::middleware)?;
        let Some(token) = token else { return next.run(request, extensions).await };
        let again = request.try_clone();
        request.headers_mut().insert(AUTHORIZATION, header(&token).map_err(Error::middleware)?);
        let answer = next.clone().run(request, extensions).await?;
        // What another origin says, where a redirect led to, is nothing to go by: it was not shown the token.
        let elsewhere = answer.url().as_str().parse().ok().as_ref().and_then(Origin::of) != Origin::of(&uri);
        if elsewhere || !is_refused(answer.status()) {
            return Ok(answer);
        }
        let (answer, is_dead) = look_into(answer).await;
        if !is_dead {
            return Ok(answer);
        }
        let Some(mut again) = again else {
            self.source.rejected(&token);
            return Ok(answer);
        };
        match self.next(&token).await {
            Some(token) => {
                again.headers_mut().insert(AUTHORIZATION, header(&token).map_err(Error::middleware)?);
                next.run(again, extensions).await
            }
            None => Ok(answer),
        }
    }
}

/// The same answer, and whether it says that its token is dead.
async fn look_into(answer: Response) -> (Response, bool) {
    let url = answer.url().clone();
    let (mut parts, body) = http::Response::<Body>::from(answer).into_parts();
    let (body, seen) = Peeked::peek(body).await;
    let is_dead = is_dead(&parts.headers, &seen);
    // What reqwest keeps the URL in is its own.
    if let Ok(with_url) = Builder::new().url(url).body(()) {
        parts.extensions.extend(with_url.into_parts().0.extensions);
    }
    (Response::from(http::Response::from_parts(parts, Body::wrap(body))), is_dead)
}
