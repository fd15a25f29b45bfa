// Linear positions in a dispatch. A dispatch of more than 65535 workgroups is folded into two
// dimensions by the host (Dispatch::linear), so the linear index must be unfolded here.

// Index of this workgroup, counted through x, then y.
fn workgroup_index(workgroup_id: vec3<u32>, num_workgroups: vec3<u32>) -> u32 {
    return workgroup_id.y * num_workgroups.x + workgroup_id.x;
}

// Index of this invocation when each workgroup has `size` of them.
fn invocation_index(workgroup_id: vec3<u32>, num_workgroups: vec3<u32>, local_index: u32, size: u32) -> u32 {
    return workgroup_index(workgroup_id, num_workgroups) * size + local_index;
}
