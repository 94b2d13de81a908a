-- What supervisors and janitors ask; see functions.lua. Sweeps are bounded by their limit, and any number may run at once.

-- The same decision as `reaped` in headrace/queues/rules.py.
local function reap(P, id, t, died, max_solo)
  local job = P .. 'job:' .. id
  forgive(P, id)
  redis.call('HINCRBY', job, died and 'crash' or 'exp', 1)
  redis.call('HINCRBY', job, 'epoch', 1)
  local f = redis.call('HMGET', job, 'cancel', 'deadline', 'crash', 'exp')
  if f[1] then
    terminate(P, id, 'cancelled', f[1], t)
  elseif tonumber(f[2]) <= t then
    terminate(P, id, 'expired', 'deadline', t)
  elseif strikes(f[3], f[4]) >= SUSPECT_STRIKES + STRIKES_PER_CRASH * max_solo then
    redis.call('RPUSH', P .. 'deaths', id, redis.call('HGET', job, 'tenant'), f[3], f[4])
    terminate(P, id, 'dead', 'its worker died ' .. max_solo .. ' times while it ran alone, without a token', t)
  else
    requeue(P, id, t, 0)
  end
end

-- worker max_solo -> id...   Only jobs whose owner is exactly this worker: what it lost before is somebody else's now.
local function reap_worker(K, A)
  local P, t = K[1], now_ms()
  local ids = redis.call('SMEMBERS', P .. 'held:' .. A[1])
  for _, id in ipairs(ids) do reap(P, id, t, true, tonumber(A[2])) end
  return ids
end

local function sweep(P, set, t, limit, move)
  local ids = redis.call('ZRANGE', P .. set, '-inf', t, 'BYSCORE', 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do move(id) end
  return #ids
end

-- limit max_solo -> count
local function reap_expired(K, A)
  local P, t = K[1], now_ms()
  return sweep(P, 'lease', t, A[1], function(id) reap(P, id, t, false, tonumber(A[2])) end)
end

-- limit -> {id, tenant, crashes, expiries, ...}   Each of them once, whoever reaped it.
local function deaths(K, A)
  return redis.call('LPOP', K[1] .. 'deaths', 4 * A[1]) or {}
end

-- limit -> count
local function promote(K, A)
  local P, t = K[1], now_ms()
  return sweep(P, 'delay', t, A[1], function(id) requeue(P, id, t, 0) end)
end

-- limit -> count
local function expire(K, A)
  local P, t = K[1], now_ms()
  return sweep(P, 'deadline', t, A[1], function(id) terminate(P, id, 'expired', 'deadline', t) end)
end

-- limit -> count
local function cancel_unattended(K, A)
  local P, t = K[1], now_ms()
  return sweep(P, 'viewer', t, A[1], function(id) cancel_job(P, id, 'unattended', t) end)
end

local function erase(P, id)
  local job = P .. 'job:' .. id
  local f = redis.call('HMGET', job, 'tenant', 'key')
  redis.call('ZREM', P .. 'jobs:' .. f[1], id)
  redis.call('ZREM', P .. 'ended', id)
  redis.call('DEL', job, P .. 'body:' .. id, P .. 'log:' .. id)
  if f[2] ~= '' then redis.call('DEL', f[2]) end
end

local function bury(P, id, retention)
  leave_tombstone(P, id, redis.call('HGET', P .. 'job:' .. id, 'tenant'), retention)
  erase(P, id)
end

-- Until when jobs may have ended to be purged now. One whose end is to go to a log waits for its relay, unless that has been away for as
-- long as an ended job is kept.
local function horizon(P, t, retention)
  local f = redis.call('HMGET', P .. 'relay', 'at', 'until')
  if not f[1] or t - f[2] > tonumber(retention) then return t - retention end
  local last = redis.call('XREVRANGE', P .. 'outbox', '+', '-', 'COUNT', 1)[1]
  if not last or last[1] == f[1] then return t - retention end
  return math.min(t - retention, tonumber(f[1]:match('^%d+')) - 1)
end

-- limit retention -> count
local function purge(K, A)
  local P, t = K[1], now_ms()
  local until_ms = horizon(P, t, A[2])
  redis.call('XTRIM', P .. 'outbox', 'MINID', math.max(0, until_ms))
  return sweep(P, 'ended', until_ms, A[1], function(id) bury(P, id, A[2]) end)
end

-- retention id... -> count
local function forget(K, A)
  local P, count = K[1], 0
  for i = 2, #A do
    if TERMINAL[redis.call('HGET', P .. 'job:' .. A[i], 'state')] then
      bury(P, A[i], A[1])
      count = count + 1
    end
  end
  return count
end

-- -> 1
local function end_round(K, A)
  redis.call('SET', K[1] .. 'swept', now_ms())
  return 1
end

-- -> ms since then, or nil
local function swept_ago(K, A)
  local at = redis.call('GET', K[1] .. 'swept')
  return at and math.max(0, now_ms() - at)
end

register('reap_worker', reap_worker, 'allow-oom')
register('reap_expired', reap_expired, 'allow-oom')
register('deaths', deaths, 'allow-oom')
register('promote', promote, 'allow-oom')
register('expire', expire, 'allow-oom')
register('cancel_unattended', cancel_unattended, 'allow-oom')
register('purge', purge, 'allow-oom')
register('forget', forget, 'allow-oom')
register('end_round', end_round, 'allow-oom')
register('swept_ago', swept_ago, 'no-writes')
