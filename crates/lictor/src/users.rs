//! Users of the machine, as configuration names them.

use std::path::PathBuf;

use lictor_agent::config::RunAs;
use nix::unistd::{Gid, Group, Uid, User};

/// The user that `text` means: `name`, `name:group`, or numbers instead of either. One that is not known, or that is root,
/// is an error, which names the key that the text is of.
pub(crate) fn run_as(key: &str, text: &str) -> Result<RunAs, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let failed = |what: &str, error| format!("{key}: cannot look up {what}: {error}");
    let found = match user.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)).map_err(|error| failed(user, error))?,
        Err(_) => User::from_name(user).map_err(|error| failed(user, error))?,
    };
    let (name, uid, own_group, home) = match (found, user.parse::<u32>()) {
        (Some(found), _) => (found.name, found.uid.as_raw(), Some(found.gid.as_raw()), found.dir),
        // A number needs no name, but then nobody says which group it is in.
        (None, Ok(uid)) => (uid.to_string(), uid, None, PathBuf::from("/")),
        (None, Err(_)) => return Err(format!("{key}: there is no user {user:?}; create it, or correct the name")),
    };
    let gid = match group {
        None => {
            own_group.ok_or_else(|| format!("{key}: user {uid} has no name; write its group, too: \"{uid}:group\""))?
        }
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => Gid::from_raw(gid).as_raw(),
            Err(_) => match Group::from_name(group).map_err(|error| failed(group, error))? {
                Some(found) => found.gid.as_raw(),
                None => return Err(format!("{key}: there is no group {group:?}; create it, or correct the name")),
            },
        },
    };
    if uid == 0 || gid == 0 || uid == u32::MAX || gid == u32::MAX {
        return Err(format!(
            "{key}: {text:?} is root, or no user at all; name an unprivileged one, or leave it out and set \
             connect.proxy.allow_managed_root"
        ));
    }
    Ok(RunAs { name, uid, gid, home })
}

/// The number of a user, or of none if `text` is empty; `key` is where the name stands.
pub(crate) fn user_id(key: &str, text: &str) -> Result<Option<u32>, String> {
    id(key, "user", text, |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

/// The same of a group.
pub(crate) fn group_id(key: &str, text: &str) -> Result<Option<u32>, String> {
    id(key, "group", text, |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

fn id(
    key: &str,
    what: &str,
    text: &str,
    find: impl FnOnce(&str) -> nix::Result<Option<u32>>,
) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = text.parse() {
        return Ok(Some(number));
    }
    match find(text) {
        Ok(Some(number)) => Ok(Some(number)),
        Ok(None) => Err(format!("{key}: there is no {what} {text:?}; create it, correct the name, or give a number")),
        Err(error) => Err(format!("{key}: cannot look up {text}: {error}; give a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "connect.proxy_defaults.run_as";

    #[test]
    fn owners_of_sockets_have_names_or_numbers() {
        let nobody = run_as(KEY, "nobody").unwrap();
        assert_eq!(user_id("k", "nobody"), Ok(Some(nobody.uid)));
        assert_eq!(user_id("k", "4711"), Ok(Some(4711)));
        assert_eq!(user_id("k", ""), Ok(None));
        assert_eq!(group_id("k", "root"), Ok(Some(0)));
        let error = group_id("unix_sockets.group", "no-such-group").unwrap_err();
        assert!(error.starts_with("unix_sockets.group: there is no group \"no-such-group\""), "{error}");
    }

    #[test]
    fn users_are_found_by_name_and_number_and_root_is_none_of_them() {
        let nobody = run_as(KEY, "nobody").unwrap();
        assert!(nobody.name == "nobody" && nobody.uid != 0);
        assert_eq!(run_as(KEY, &nobody.uid.to_string()).unwrap(), nobody);
        let own = run_as(KEY, &format!("{}:4711", nobody.uid)).unwrap();
        assert_eq!((own.uid, own.gid), (nobody.uid, 4711));
        let unnamed = run_as(KEY, "3999999:3999998").unwrap();
        assert_eq!((unnamed.name.as_str(), unnamed.uid, unnamed.gid), ("3999999", 3_999_999, 3_999_998));
        for (text, part) in [
            ("no-such-user", "there is no user \"no-such-user\""),
            ("nobody:no-such-group", "there is no group \"no-such-group\""),
            ("3999999", "write its group, too"),
            ("root", "is root"),
            ("0:1", "is root"),
            ("nobody:0", "is root"),
            ("nobody:root", "is root"),
            ("", "there is no user \"\""),
        ] {
            let error = run_as(KEY, text).unwrap_err();
            assert!(error.contains(part) && error.starts_with(KEY), "{text}: {error}");
        }
    }
}
