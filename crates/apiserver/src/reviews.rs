//! Questions about identity and access: TokenReview, SelfSubjectReview, and those of `rights`.
//!
//! Each is a POST that is answered with the same object and a status; nothing is stored. Start at [`respond`].

use api::{Kind, look};
use axum::body::Body;
use axum::response::Response;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::authz::{self, Attributes};
use crate::body::{self, Checked};
use crate::codec::{self, Format};
use crate::query::{Query, WriteOptions};
use crate::resource::read_body;
use crate::server::Core;
use crate::status::Status;
use crate::user::UserInfo;
use crate::{answer, authn, clock, rights, route};

/// Answers one question.
pub async fn respond(
    core: &Core,
    (kind, namespace): (&'static Kind, Option<String>),
    user: UserInfo,
    request: Request<Body>,
) -> Result<Response, Status> {
    let query = Query::parse(request.uri().query());
    let attributes = Attributes {
        user: &user,
        verb: route::verb(request.method(), false, false, None),
        group: kind.group,
        resource: kind.plural,
        subresource: "",
        namespace: namespace.as_deref().unwrap_or_default(),
        name: "",
        fields: "",
        path: request.uri().path(),
    };
    authz::authorize(&core.authorizers, &attributes, &core.registry.world).await?;
    if *request.method() != Method::POST {
        return Err(Status::method_not_allowed());
    }
    let format = Format::negotiate(request.headers(), query.flag("pretty"))?;
    let options = WriteOptions::parse(&query)?;
    let (parts, body) = request.into_parts();
    let document = codec::decode(&parts.headers, &read_body(core, body).await?)?;
    let Checked { object, warnings } = body::check(kind, document, options.field_validation)?;
    let answered = match kind.kind {
        "TokenReview" => token(core, object).await?,
        "SelfSubjectReview" => whoami(&user, object),
        "SelfSubjectRulesReview" => rights::rules(core, &user, object).await?,
        _ => rights::access(core, (kind, namespace.as_deref()), &user, object).await?,
    };
    let mut response = answer::value(201, &answered, format);
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// A user as reviews show it.
fn shown(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn whoami(user: &UserInfo, mut review: Value) -> Value {
    look::set(look::child(&mut review, "metadata"), "creationTimestamp", crate::object::timestamp(clock::now()));
    review["status"] = json!({"userInfo": shown(user)});
    review
}

async fn token(core: &Core, mut review: Value) -> Result<Value, Status> {
    let spec = &review["spec"];
    let token = look::text(spec, "token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked: Vec<String> = look::texts(spec, "audiences").into_iter().map(str::to_owned).collect();
    let audiences = if asked.is_empty() { core.tokens.audiences.clone() } else { asked };
    let status = match authn::prove(core, token, &audiences).await {
        Ok(proven) => {
            json!({"authenticated": true, "user": shown(&proven.user), "audiences": proven.audiences})
        }
        Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
    };
    look::child(&mut review, "metadata");
    review["status"] = status;
    Ok(review)
}
