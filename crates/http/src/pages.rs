//! Files of the operator's own page below `/ui/`.
//!
//! Nothing outside of the directory is ever named: what is asked for is cleaned, may not begin with a dot, and each part is
//! a plain name. What is not there is the page itself, which then shows what its address means.

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};

use crate::respond::{self, Response, ResponseBody};

/// Below which the page lies.
pub(crate) const BELOW: &str = "/ui/";

/// The page itself.
const PAGE: &str = "index.html";

/// What a file of a page may hold at most; larger ones are no page's.
const LARGEST: u64 = 32 << 20;

/// Keeps search engines out.
pub(crate) const ROBOTS: &str = "User-agent: *\nDisallow: /\n";

/// Answers for a path below [`BELOW`].
pub(crate) async fn answer(folder: &Path, method: &Method, rest: &str) -> Response {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = respond::text(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let candidates: Vec<PathBuf> = [inside(rest), Some(PathBuf::from(PAGE))].into_iter().flatten().collect();
    let folder = folder.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        candidates.into_iter().find_map(|path| read(&folder.join(&path)).map(|body| (path, body)))
    });
    let Ok(Some((path, body))) = found.await else { return respond::empty(StatusCode::NOT_FOUND) };
    let mut response = respond::empty(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind(&path)));
    *response.body_mut() = ResponseBody::whole(body.into());
    response
}

/// The file that is meant; none for what is no name of one.
fn inside(rest: &str) -> Option<PathBuf> {
    let rest = rest.trim_end_matches('/');
    let path = Path::new(rest);
    let plain = path.components().all(|part| match part {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        _ => false,
    });
    (plain && !rest.is_empty() && !rest.contains('\0')).then(|| path.to_owned())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let path = if path.is_dir() { path.join(PAGE) } else { path.to_owned() };
    let file = std::fs::File::open(path).ok()?;
    let about = file.metadata().ok()?;
    if !about.is_file() || about.len() > LARGEST {
        return None;
    }
    let mut body = Vec::new();
    file.take(LARGEST).read_to_end(&mut body).ok()?;
    Some(body)
}

/// What browsers must be told about files of pages.
fn kind(path: &Path) -> &'static str {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "html" | "htm" | "" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "txt" => "text/plain; charset=utf-8",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_files_of_a_page() {
        assert_eq!(inside("assets/app.js"), Some("assets/app.js".into()));
        assert_eq!(inside("services/"), Some("services".into()));
        for outside in ["", "/", "../x", "a/../../x", "/etc/passwd", ".git/config", "a/.env", "a\0b"] {
            assert_eq!(inside(outside), None, "{outside:?}");
        }
    }
}
