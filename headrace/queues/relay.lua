-- What the relay to a log asks; see functions.lua.
--
--   P relay    HASH    owner, until (ms): who relays now; at: the outbox entry up to which all is in the log
--   P asked    HASH    id -> position in its log up to which its tokens are in the log, of jobs whose tokens somebody wants there
--   P trace:<id>  STRING  the traceparent of a job that has one, for as long as its end may be told

-- Whether `owner` relays from now on. Two at once would do no harm, only the same work.
local function relays(P, owner, lease, t)
  local f = redis.call('HMGET', P .. 'relay', 'owner', 'until')
  if f[1] and f[1] ~= owner and tonumber(f[2]) > t then return false end
  redis.call('HSET', P .. 'relay', 'owner', owner, 'until', t + lease)
  redis.call('HSETNX', P .. 'relay', 'at', '0-0')
  return true
end

-- owner lease limit -> {1 if owner relays, {entry, id, tenant, lane, key, traceparent}...}   Lane and key are empty of a job that is gone.
local function outbox(K, A)
  local P, out = K[1], {}
  if not relays(P, A[1], A[2], now_ms()) then return {0} end
  local at = redis.call('HGET', P .. 'relay', 'at')
  for i, entry in ipairs(redis.call('XRANGE', P .. 'outbox', '(' .. at, '+', 'COUNT', A[3])) do
    local id, tenant = entry[2][2], entry[2][4]
    local f = redis.call('HMGET', P .. 'job:' .. id, 'lane', 'key')
    out[i] = {entry[1], id, tenant, f[1] or '', f[2] or '', redis.call('GET', P .. 'trace:' .. id) or ''}
  end
  return {1, out}
end

local function parts(entry)
  local ms, n = entry:match('^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end

-- entry -> 1   All up to the entry is in the log. A relay that was overtaken does not put it back.
local function relayed(K, A)
  local P = K[1]
  local ms, n = parts(A[1])
  local ms_now, n_now = parts(redis.call('HGET', P .. 'relay', 'at') or '0-0')
  if ms > ms_now or (ms == ms_now and n > n_now) then redis.call('HSET', P .. 'relay', 'at', A[1]) end
  return 1
end

-- id... -> how many are behind `at`
local function unrelayed(K, A)
  local P = K[1]
  local at = redis.call('HGET', P .. 'relay', 'at') or '0-0'
  return #redis.call('XRANGE', P .. 'outbox', '(' .. at, '+', 'COUNT', A[1])
end

-- id traceparent ms -> 1
local function trace(K, A)
  redis.call('SET', K[1] .. 'trace:' .. A[1], A[2], 'PX', A[3])
  return 1
end

-- id -> 1
local function ask(K, A)
  redis.call('HSETNX', K[1] .. 'asked', A[1], '0-0')
  return 1
end

-- owner lease limit cursor -> {1 if owner relays, cursor of the next page, {id, position, key}...}   About so many; in pages, as of thousands
-- only a few grow at a time.
local function asked(K, A)
  local P, out = K[1], {}
  if not relays(P, A[1], A[2], now_ms()) then return {0} end
  local page, seen = redis.call('HSCAN', P .. 'asked', A[4], 'COUNT', A[3]), {}
  local found = page[2]
  for i = 1, #found, 2 do
    -- A hash that shrinks meanwhile may show one twice.
    if not seen[found[i]] then
      seen[found[i]] = true
      out[#out + 1] = {found[i], found[i + 1], redis.call('HGET', P .. 'job:' .. found[i], 'key') or ''}
    end
  end
  return {1, page[1], out}
end

-- {id position}... -> 1   An empty position: all was told.
local function told(K, A)
  for i = 1, #A, 2 do
    if A[i + 1] == '' then
      redis.call('HDEL', K[1] .. 'asked', A[i])
    else
      redis.call('HSET', K[1] .. 'asked', A[i], A[i + 1])
    end
  end
  return 1
end

register('outbox', outbox, 'allow-oom')
register('relayed', relayed, 'allow-oom')
register('unrelayed', unrelayed, 'no-writes')
register('trace', trace)
register('ask', ask, 'allow-oom')
register('asked', asked, 'allow-oom')
register('told', told, 'allow-oom')

-- Recovery -----------------------------------------------------------------------------------------------------------------------------
--
--   P recovered  STRING  all that a log held of an earlier store is here; missing of a store that was made, or made anew
--   P recovery   HASH    owner, until (ms): who brings it here now                            (shard 00 only)

-- -> 1 if it is here
local function recovered(K, A)
  return redis.call('EXISTS', K[1] .. 'recovered')
end

-- owner lease -> 1 if it is this owner's business from now on
local function recover(K, A)
  local key, t = K[1] .. 'recovery', now_ms()
  local f = redis.call('HMGET', key, 'owner', 'until')
  if f[1] and f[1] ~= A[1] and tonumber(f[2]) > t then return 0 end
  redis.call('HSET', key, 'owner', A[1], 'until', t + A[2])
  return 1
end

local function end_recovery(K, A)
  redis.call('SET', K[1] .. 'recovered', now_ms())
  redis.call('DEL', K[1] .. 'recovery')
  return 1
end

-- retention id tenant ... -> how many were news. They ended in an earlier store: none of them runs again.
local function entomb(K, A)
  local P, count = K[1], 0
  for i = 2, #A, 2 do
    if redis.call('EXISTS', P .. 'job:' .. A[i]) == 0 and redis.call('SET', P .. 'gone:' .. A[i], A[i + 1], 'PX', A[1], 'NX') then
      count = count + 1
    end
  end
  return count
end

register('recovered', recovered, 'no-writes')
register('recover', recover, 'allow-oom')
register('end_recovery', end_recovery, 'allow-oom')
register('entomb', entomb)
