//! What a launcher of parallel jobs says of this process, by the environment.

/// How many processes a launcher has started, by the name of the variable: Open MPI, MPICH and Intel MPI, MVAPICH, and `srun`
/// (the variables of a whole Slurm allocation say nothing of the step that runs in it).
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The variable that counts the processes of a job, and the count. `variable` looks one up.
pub(super) fn announced(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, usize)> {
    SIZES.into_iter().find_map(|name| Some((name, variable(name)?.trim().parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_job_is_found() {
        let of = |pairs: &[(&str, &str)]| {
            announced(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string())
            })
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("PMI_SIZE", "4")]), Some(("PMI_SIZE", 4)));
        assert_eq!(
            of(&[("SLURM_NTASKS", "4"), ("OMPI_COMM_WORLD_SIZE", "2 ")]).map(|found| found.1),
            Some(2)
        );
        assert_eq!(of(&[("PMI_SIZE", "many")]), None);
    }
}
