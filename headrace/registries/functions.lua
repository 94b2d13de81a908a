#!lua name=headrace_registries_1
-- Files and batches as server-side functions: one per transition, each atomic, each safe to repeat.
-- The version in the library's name changes with the meaning of any function, so that old and new processes run side by side.
--
-- This file holds the keys and what files and batches share; the functions themselves follow in files.lua and batches.lua.
--
-- KEYS[1] is the prefix, P = "headrace:{files}:" or "headrace:{batches}:". Every other key is made from it, so each kind has one slot.
-- That is enough: there are thousands of them, not millions, and what is large of them lies elsewhere.
--
--   both
--   P record:<id>                 HASH    tenant, arrival (us); key, hash (of the call that made it, where it had a key); and what is below
--   P list:<#group>:<group>:<tenant>      ZSET    ids by arrival; groups: '' (all), and of files each purpose
--   P idem:<#tenant>:<tenant>:<key>       STRING  id; lives exactly as long as the record
--   P arrival                     STRING  the last one (us)
--
--   files
--   P record:<id>                 HASH    purpose; body (headrace/file.py as JSON); whole (put when no batch wrote it any more)
--   P expiry                      ZSET    ids by expires_ms
--
--   batches
--   P record:<id>                 HASH    new, status, created_ms, expires_ms, model, faults, progress, output_file_id, error_file_id and
--                                         <status>_ms, as in headrace/batch.py: new, faults and progress as JSON;
--                                         epoch (counts leases); holder, until (ms): the lease, while there is one;
--                                         unseen (its holder has not heard of the cancel yet); ended (ms)
--   P due                         ZSET    ids by ms: when somebody should look at it; all that have not ended
--   P ended                       ZSET    ids by ms
--   P stalled                     SET     ids: given back for want of Kafka, and no nearer to their end since
--
-- Which status leads to which is headrace/batch.py's to know: whoever asks for a status says from where it may be reached.
--
-- Lua 5.1 prints numbers with 14 digits when it concatenates: milliseconds fit, microseconds must stay arguments.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- The length keeps ("a", "b:c") and ("a:b", "c") apart.
local function pair(a, b)
  return #a .. ':' .. a .. ':' .. b
end

local function list_of(P, group, tenant)
  return P .. 'list:' .. pair(group, tenant)
end

-- Arrivals never tie, even where the clock stands or steps back.
local function arrive(P)
  local arrival = math.max(now_us(), tonumber(redis.call('GET', P .. 'arrival') or 0) + 1)
  redis.call('SET', P .. 'arrival', arrival)
  return arrival
end

-- {'replay' or 'conflict', id} if an earlier call made the object. `idem` is the key of its idempotency key, or ''.
local function made_before(P, id, idem, hash)
  local first = idem ~= '' and redis.call('GET', idem)
  if first then return {redis.call('HGET', P .. 'record:' .. first, 'hash') == hash and 'replay' or 'conflict', first} end
  return redis.call('EXISTS', P .. 'record:' .. id) == 1 and {'replay', id} or nil
end

local function idem_of(P, tenant, has_key, key)
  return has_key == '1' and P .. 'idem:' .. pair(tenant, key) or ''
end

local function owned(P, tenant, id)
  return redis.call('HGET', P .. 'record:' .. id, 'tenant') == tenant
end

-- Ids of the list behind `after`, which need not be in it; nil: from its beginning.
local function page(P, list, after, limit, newest_first)
  local from = after and '(' .. redis.call('HGET', P .. 'record:' .. after, 'arrival')
  if newest_first then return redis.call('ZRANGE', list, from or '+inf', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, limit) end
  return redis.call('ZRANGE', list, from or '-inf', '+inf', 'BYSCORE', 'LIMIT', 0, limit)
end

-- The record and its key; lists are the caller's.
local function erase(P, id)
  local idem = redis.call('HGET', P .. 'record:' .. id, 'key')
  if idem and idem ~= '' then redis.call('DEL', idem) end
  redis.call('DEL', P .. 'record:' .. id)
end

-- Without allow-oom a function is refused once maxmemory is reached: new work must be, the end of old work must not.
local function register(name, callback, ...)
  redis.register_function{function_name = 'headrace_registries_1_' .. name, callback = callback, flags = {...}}
end
