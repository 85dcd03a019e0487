//! What a sweep found.

/// Flows of one address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyFlows {
    pub established: u64,
    pub half_open: u64,
}

impl std::ops::Add for FamilyFlows {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            established: self.established + other.established,
            half_open: self.half_open + other.half_open,
        }
    }
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows that are left.
    pub v4: FamilyFlows,
    pub v6: FamilyFlows,
    /// The established ones by target id.
    pub by_target: Vec<u64>,
    /// Entries that were removed.
    pub removed: u64,
}

impl Swept {
    /// Flows that are left, of both families.
    #[must_use]
    pub fn flows(&self) -> FamilyFlows {
        self.v4 + self.v6
    }
}
