//! An upstream that grants every sign-in, so that a broker can be filled with as many users as a benchmark wants.
//!
//! `vault ADDRESS [delay_ms=N] [lifetime=SECONDS]` serves until it is killed. It judges nothing and remembers nothing: the sandbox is the vault to test against.

use std::{env, error::Error, io, time::Duration};

use token_broker_echo::{ACCESS_TOKEN_LENGTH, LIFETIME_SECONDS, SCOPE, options::Options};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// A sign-in's body is some 80 bytes, and its head a few hundred.
const MAX_BYTES: usize = 4096;

/// Reads one request and returns its body; `None` where the client has closed the connection.
async fn read_request(stream: &mut BufStream<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            if line.trim_end().is_empty() {
                break;
            }
            continue; // the request line
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().map_err(io::Error::other)?;
        }
    }
    if length > MAX_BYTES {
        return Err(io::Error::other("the body is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(body))
}

/// The documented reply, with a token that differs from user to user: what it is made of names the user.
fn grant(body: &[u8], lifetime: i64) -> String {
    let mut token: String = body.iter().copied().filter(u8::is_ascii_alphanumeric).map(char::from).collect();
    token.insert_str(0, &"t".repeat(ACCESS_TOKEN_LENGTH.saturating_sub(token.len())));
    token.truncate(ACCESS_TOKEN_LENGTH);
    let json = format!(
        r#"{{"access_token":"{token}","token_type":"bearer","refresh_token":"qPMkKwoedBu2lVZzn9-51hkG_vg","expires_in":{lifetime},"scope":"{SCOPE}","jti":"nejUZ1PeSBnmTtrZdaAj81sQX44"}}"#
    );
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}", json.len())
}

async fn serve(stream: TcpStream, delay: Duration, lifetime: i64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    while let Some(body) = read_request(&mut stream).await? {
        if !delay.is_zero() {
            sleep(delay).await;
        }
        stream.write_all(grant(&body, lifetime).as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, options @ ..] = &arguments[..] else {
        return Err("usage: vault ADDRESS key=value…".into());
    };
    let mut options = Options::new(options)?;
    let delay = Duration::from_millis(options.get("delay_ms", 0)?);
    let lifetime = options.get("lifetime", LIFETIME_SECONDS)?;
    options.end()?;
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        #[allow(clippy::disallowed_methods, reason = "nobody waits for a connection: the process is killed at the end")]
        tokio::spawn(async move {
            if let Err(error) = serve(stream, delay, lifetime).await {
                eprintln!("a connection broke off: {error}");
            }
        });
    }
}
