-- What workers ask; see functions.lua.

local HEADS_PER_CLAIM = 128
local CLAIM_MEMORY_MS = 60000

-- What the holder of a job needs to know, or nil for anybody else.
local function held(P, id, epoch)
  local f = redis.call('HMGET', P .. 'job:' .. id, 'state', 'epoch', 'n', 'cancel', 'deadline')
  if f[1] ~= 'running' or f[2] ~= epoch then return nil end
  return {n = tonumber(f[3]), cancel = f[4], deadline = tonumber(f[5])}
end

local function advice(job, t)
  if job.cancel then return 'cancel' end
  return job.deadline <= t and 'expire' or 'ok'
end

local function lease(P, id, at, worker, epoch, n, t, lease_ms)
  -- A job that comes back was paid for by its first claim.
  if redis.call('HSETNX', P .. 'job:' .. id, 'started', t) == 1 then
    local cost = redis.call('HGET', P .. 'job:' .. id, 'cost')
    redis.call('ZINCRBY', P .. 'vt:' .. at.ward, cost, at.tenant)
  end
  dequeue(P, id, at)
  redis.call('HSET', P .. 'job:' .. id, 'state', 'running', 'owner', worker, 'epoch', epoch, 'n0', n)
  redis.call('ZADD', P .. 'lease', t + lease_ms, id)
  redis.call('SADD', P .. 'held:' .. worker, id)
end

local function claimed(P, id, epoch, n)
  return {id, tonumber(epoch), n, redis.call('GET', P .. 'body:' .. id)}
end

-- A claim that found nothing is not remembered: its repeat is as good as a first call.
local function remember(P, worker, nonce, lease_ms, id, epoch)
  local record = P .. 'claim:' .. pair(worker, nonce)
  redis.call('RPUSH', record, id, epoch)
  redis.call('PEXPIRE', record, lease_ms + CLAIM_MEMORY_MS)
end

-- What an earlier call with this nonce took and the worker still holds; nil if there was none.
local function recall(P, worker, nonce)
  local known, out = redis.call('LRANGE', P .. 'claim:' .. pair(worker, nonce), 0, -1), {}
  for i = 1, #known, 2 do
    local job = held(P, known[i], known[i + 1])
    if job then out[#out + 1] = claimed(P, known[i], known[i + 1], job.n) end
  end
  return #known > 0 and out or nil
end

-- The next job of a ward with its tokens, or nil when the ward is empty.
local function head(P, lane, model)
  local tenant = redis.call('ZRANGE', P .. 'vt:' .. lane .. ':' .. model, 0, 0)[1]
  if not tenant then return nil end
  local id = redis.call('ZRANGE', P .. 'q:' .. lane .. ':' .. pair(model, tenant), 0, 0)[1]
  local f = redis.call('HMGET', P .. 'job:' .. id, 'deadline', 'epoch', 'n', 'prompt')
  return {id = id, deadline = tonumber(f[1]), epoch = tonumber(f[2]) + 1, n = tonumber(f[3]), tokens = f[4] + f[3]}
end

-- Takes jobs of one ward until `want` is met. False: the next one does not fit, so nothing behind it may be taken either.
local function take(P, t, lane, model, want, out)
  while #out < want.jobs and want.looks > 0 do
    local job = head(P, lane, model)
    if not job then return true end
    if job.deadline <= t then
      want.looks = want.looks - 1
      terminate(P, job.id, 'expired', 'deadline', t)
    elseif job.tokens > want.tokens then
      return false
    else
      want.tokens = want.tokens - job.tokens
      lease(P, job.id, place(P, job.id), want.worker, job.epoch, job.n, t, want.lease_ms)
      remember(P, want.worker, want.nonce, want.lease_ms, job.id, job.epoch)
      out[#out + 1] = claimed(P, job.id, job.epoch, job.n)
    end
  end
  return true
end

-- worker nonce lease_ms max_jobs max_tokens #models model... lane... -> {1 if a job did not fit, {{id, epoch, n, body}...}}
local function claim(K, A)
  local P, t, out = K[1], now_ms(), {}
  local known = recall(P, A[1], A[2])
  if known then return {0, known} end
  local want = {worker = A[1], nonce = A[2], lease_ms = A[3], jobs = tonumber(A[4]), tokens = tonumber(A[5]), looks = HEADS_PER_CLAIM}
  local fits, lanes_from = true, 7 + A[6]
  for i = lanes_from, #A do
    for j = 7, lanes_from - 1 do
      fits = fits and take(P, t, A[i], A[j], want, out)
    end
  end
  return {fits and 0 or 1, out}
end

-- worker nonce #models model... lane... -> for each lane 'known' (claimed under this nonce), 'work' or 'none'
local function peek(K, A)
  local P, out, lanes_from = K[1], {}, 4 + A[3]
  for i = lanes_from, #A do
    local queued = 0
    for j = 4, lanes_from - 1 do
      queued = queued + (redis.call('HGET', P .. 'depth', A[i] .. ':' .. A[j]) or 0)
    end
    local known = redis.call('EXISTS', P .. 'claim:' .. pair(A[1], A[2] .. ':' .. A[i])) == 1
    out[#out + 1] = known and 'known' or queued > 0 and 'work' or 'none'
  end
  return out
end

-- id epoch start count data cached ... -> verdict...   `cached` is empty where it is not told; of a job it is kept as it was told first.
local function commit(K, A)
  local P, t, out, rung, seen = K[1], now_ms(), {}, {}, {}
  for i = 1, #A, 6 do
    local id, epoch, start = A[i], A[i + 1], tonumber(A[i + 2])
    local job = held(P, id, epoch)
    local log, n = P .. 'log:' .. id, start + A[i + 3]
    local entry = epoch .. '-' .. n
    if not job then
      out[#out + 1] = 'fenced'
    elseif start == job.n then
      redis.call('XADD', log, entry, 'd', A[i + 4])
      redis.call('HSET', P .. 'job:' .. id, 'n', n)
      if A[i + 5] ~= '' then redis.call('HSETNX', P .. 'job:' .. id, 'cached', A[i + 5]) end
      if not seen[id] then rung[#rung + 1], seen[id] = id, true end
      out[#out + 1] = advice(job, t)
    else
      -- A repeat finds exactly its own entry; anything else disagrees with the log.
      local there = redis.call('XRANGE', log, entry, entry)[1]
      out[#out + 1] = there and there[2][2] == A[i + 4] and advice(job, t) or 'gap'
    end
  end
  if #rung > 0 then redis.call('PUBLISH', 'headrace:wake', table.concat(rung, ' ')) end
  return out
end

-- id epoch start count data ... -> verdict...   For workers that know nothing of `cached`.
local function append(K, A)
  local told = {}
  for i = 1, #A, 5 do
    for j = i, i + 4 do told[#told + 1] = A[j] end
    told[#told + 1] = ''
  end
  return commit(K, told)
end

-- lease_ms id epoch ... -> verdict...
local function renew(K, A)
  local P, t, out = K[1], now_ms(), {}
  for i = 2, #A, 2 do
    local job = held(P, A[i], A[i + 1])
    if job then redis.call('ZADD', P .. 'lease', 'XX', t + A[1], A[i]) end
    out[#out + 1] = job and advice(job, t) or 'fenced'
  end
  return out
end

-- id epoch n state why ... -> verdict...
local function finish(K, A)
  local P, t, out = K[1], now_ms(), {}
  for i = 1, #A, 5 do
    local f = redis.call('HMGET', P .. 'job:' .. A[i], 'epoch', 'state', 'n', 'cancel')
    local verdict = 'fenced'
    if f[1] == A[i + 1] and f[2] == A[i + 3] then
      verdict = 'ok'
    elseif f[1] == A[i + 1] and f[2] == 'running' then
      verdict = f[3] == A[i + 2] and 'ok' or 'gap'
      -- Who asked for the cancel is known here, not to the worker.
      local why = A[i + 3] == 'cancelled' and f[4] or A[i + 4]
      if verdict == 'ok' then terminate(P, A[i], A[i + 3], why, t) end
    end
    out[#out + 1] = verdict
  end
  return out
end

-- delay_ms id epoch ... -> verdict...
local function release(K, A)
  local P, t, out = K[1], now_ms(), {}
  for i = 2, #A, 2 do
    local id, epoch = A[i], A[i + 1]
    local job = held(P, id, epoch)
    if job then
      forgive(P, id)
      redis.call('HSET', P .. 'job:' .. id, 'released', epoch, 'epoch', epoch + 1)
      if job.cancel then
        terminate(P, id, 'cancelled', job.cancel, t)
      else
        requeue(P, id, t, tonumber(A[1]))
      end
    end
    local repeated = not job and epoch ~= '0' and redis.call('HGET', P .. 'job:' .. id, 'released') == epoch
    out[#out + 1] = (job or repeated) and 'ok' or 'fenced'
  end
  return out
end

local function drop_lapsed(P, t)
  for _, worker in ipairs(redis.call('ZRANGE', P .. 'reports', '-inf', t, 'BYSCORE')) do
    redis.call('ZREM', P .. 'reports', worker)
    redis.call('HDEL', P .. 'workers', worker)
  end
end

-- worker status ttl
local function report(K, A)
  local P, t = K[1], now_ms()
  drop_lapsed(P, t)
  redis.call('HSET', P .. 'workers', A[1], A[2])
  redis.call('ZADD', P .. 'reports', t + A[3], A[1])
  return 1
end

local function workers(K, A)
  drop_lapsed(K[1], now_ms())
  return redis.call('HVALS', K[1] .. 'workers')
end

register('peek', peek, 'no-writes')
register('claim', claim, 'allow-oom')
register('commit', commit, 'allow-oom')
register('append', append, 'allow-oom')
register('renew', renew, 'allow-oom')
register('finish', finish, 'allow-oom')
register('release', release, 'allow-oom')
register('report', report, 'allow-oom')
register('workers', workers, 'allow-oom')
