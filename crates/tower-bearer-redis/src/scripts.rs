//! The commands: one Lua script for each operation, which makes it one atomic step and one round trip.
//!
//! `EVAL` sends a script whole each time. `EVALSHA` would save some hundred bytes, but needs two more round trips and one
//! more command in the ACL rule when the server has forgotten the script. All keys of a call share a hash tag, so a
//! cluster runs it on one node.

/// `KEYS`: record. Returns the version, the bytes and the age in milliseconds; nil if there is no record.
pub(crate) const LOAD: &str = "
local record = redis.call('HMGET', KEYS[1], 'version', 'bytes', 'saved')
if not record[1] then return false end
local now = redis.call('TIME')
return {record[1], record[2], now[1] * 1000 + math.floor(now[2] / 1000) - record[3]}
";

/// `KEYS`: lease. `ARGV`: owner, time to live in milliseconds. Returns nil if the lease is this owner's, or else the
/// owner that has it and for how many milliseconds.
pub(crate) const ACQUIRE: &str = "
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
local owner = redis.call('GET', KEYS[1])
if owner ~= ARGV[1] then return {owner, redis.call('PTTL', KEYS[1])} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return false
";

/// `KEYS`: lease. `ARGV`: owner, time to live in milliseconds. Returns 1 if the lease is this owner's, or else 0.
pub(crate) const EXTEND: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
";

/// `KEYS`: lease, record. `ARGV`: owner, channel, message.
///
/// Waiters are told that the lease has ended, unless a save by this owner has told them already.
pub(crate) const RELEASE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end
redis.call('DEL', KEYS[1])
if redis.call('HGET', KEYS[2], 'owner') ~= ARGV[1] then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
";

/// `KEYS`: lease, record. `ARGV`: owner, expected version or an empty text, bytes, time to live in milliseconds, channel,
/// message. Returns the new version, or nil for a conflict.
///
/// The version is the server's time in microseconds, or one more than the last if that is greater. So a number does not
/// come again after the record was lost with the server's memory. Lua's numbers are exact up to the year 2255.
///
/// A save that is repeated because its answer was lost returns what the first one returned.
pub(crate) const SAVE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local record = redis.call('HMGET', KEYS[2], 'version', 'owner', 'expected', 'bytes')
if record[2] == ARGV[1] and record[3] == ARGV[2] and record[4] == ARGV[3] then return record[1] end
if (record[1] or '') ~= ARGV[2] then return false end
local now = redis.call('TIME')
local version = string.format('%.0f', math.max(now[1] * 1000000 + now[2], (record[1] or 0) + 1))
local saved = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[2], 'version', version, 'owner', ARGV[1], 'expected', ARGV[2], 'bytes', ARGV[3], 'saved', saved)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return version
";

/// `KEYS`: lease, record. `ARGV`: owner, expected version, time to live in milliseconds. Returns 1 if the record will be
/// removed, or else 0.
pub(crate) const EXPIRE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'version') ~= ARGV[2] then return 0 end
return redis.call('PEXPIRE', KEYS[2], ARGV[3])
";

/// `KEYS`: lease, record, new name. `ARGV`: owner, expected version, time to live in milliseconds, channel, message.
/// Returns 1 if the record was moved, or else 0.
pub(crate) const SET_ASIDE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'version') ~= ARGV[2] then return 0 end
redis.call('RENAME', KEYS[2], KEYS[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
";
