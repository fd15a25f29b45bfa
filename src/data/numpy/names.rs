//! What the names of arrays say: `x_train`, `train_images` and `arr_0` are pictures, `y_test` is labels.

use super::super::split::Part;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Images,
    Labels,
}

/// The role of an array and the part it is of, if its name says so: one word for the role and at most one for the part.
pub(super) fn role(name: &str) -> Option<(Role, &'static str)> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "arr_0" => return Some((Role::Images, Part::WHOLE)),
        "arr_1" => return Some((Role::Labels, Part::WHOLE)),
        _ => {}
    }
    let (mut role, mut part) = (None, None);
    for word in name.split(['_', '-', '.', ' ']) {
        let found = match word {
            "images" | "image" | "imgs" | "pictures" | "x" | "data" => Some(Role::Images),
            "labels" | "label" | "y" | "targets" => Some(Role::Labels),
            _ => None,
        };
        match (found, Part::word(word)) {
            (Some(found), _) if role.is_none() => role = Some(found),
            (None, Some(found)) if part.is_none() => part = Some(found),
            _ => return None,
        }
    }
    role.map(|role| (role, part.unwrap_or(Part::WHOLE)))
}
