//! The sequence number with which op25b answers a SYN: a keyed hash of the connection, so that nothing is remembered.

use crate::address::Address;

/// A secret.
pub type Key = [u64; 2];

/// The secrets of an instance: the new one takes over from the old one where a period begins, so that no conversation is
/// cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Keys {
    /// Of the periods before `since`.
    pub old: Key,
    /// Of `since` and the periods after it.
    pub new: Key,
    /// A period of [`AGE`]; 32 bits of it.
    pub since: u64,
}

impl Keys {
    /// One and the same, whenever it is.
    #[must_use]
    pub const fn unchanged(key: Key) -> Self {
        Self { old: key, new: key, since: 0 }
    }

    /// That of a period.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, period: u32) -> Key {
        // The period before the first is the last there is.
        if (period.wrapping_sub(self.since as u32) as i32) < 0 { self.old } else { self.new }
    }

    /// With another secret from the second period after `now` on: the next one may come before the generation takes
    /// force. As they are where that would take a secret away whose cookies are still accepted.
    #[must_use]
    pub const fn renewed(self, now: u32, fresh: Key) -> Self {
        // What is to begin later than that is of another boot, whose periods began anew.
        if (self.since as u32).wrapping_sub(now) <= 2 {
            self
        } else {
            Self { old: self.of(now), new: fresh, since: now.wrapping_add(2) as u64 }
        }
    }
}

/// Nanoseconds of CLOCK_MONOTONIC that one cookie is given out, as a shift: nine minutes. It is accepted for as long
/// again.
pub const AGE: u32 = 39;

/// The two ends of a connection, as words to hash: client, server, and ports in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who opened it.
    pub client: Address,
    /// Whom it is for.
    pub server: Address,
    /// Both ports, the client's above.
    pub ports: u32,
}

impl Connection {
    /// Itself and a period of [`AGE`].
    #[inline(always)]
    #[must_use]
    pub fn words(&self, period: u32) -> Words {
        let Self { client, server, ports } = self;
        [client.high, client.low, server.high, server.low, u64::from(*ports) << 32 | u64::from(period)]
    }
}

/// What a cookie is made of: see [`Connection::words`].
pub type Words = [u64; 5];

/// The cookie of a connection in a period: SipHash-2-4 of both.
#[inline(always)]
#[must_use]
pub fn cookie(key: Key, words: Words) -> u32 {
    siphash(key, words) as u32
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012) of whole words. Without loops: the verifier of Linux 5.10 takes none that
/// LLVM enters in the middle.
#[inline(always)]
fn siphash([low, high]: Key, [a, b, c, d, e]: Words) -> u64 {
    // The last word holds the bytes that are left over, none here, and the length.
    let length = (size_of::<Words>() as u64) << 56;
    let State([a, b, c, d]) = State([
        low ^ 0x736f_6d65_7073_6575,
        high ^ 0x646f_7261_6e64_6f6d,
        low ^ 0x6c79_6765_6e65_7261,
        high ^ 0x7465_6462_7974_6573,
    ])
    .absorb(a)
    .absorb(b)
    .absorb(c)
    .absorb(d)
    .absorb(e)
    .absorb(length)
    .finish();
    a ^ b ^ c ^ d
}

struct State([u64; 4]);

impl State {
    #[inline(always)]
    const fn absorb(mut self, word: u64) -> Self {
        self.0[3] ^= word;
        let mut state = self.round().round();
        state.0[0] ^= word;
        state
    }

    #[inline(always)]
    const fn finish(mut self) -> Self {
        self.0[2] ^= 0xff;
        self.round().round().round().round()
    }

    #[inline(always)]
    const fn round(self) -> Self {
        let State([mut a, mut b, mut c, mut d]) = self;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        State([a, b, c, d])
    }
}
