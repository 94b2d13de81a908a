#!lua name=headrace_1
-- The state machine of headrace/state.py as server-side functions: one per transition, each atomic, each safe to repeat.
-- The version in the library's name changes with the meaning of any function, so that old and new processes run side by side.
-- headrace/testing/queue/memory.py says the same in Python; the contract and property suites hold the two equal.
--
-- This file holds the keys and what every transition shares; the functions themselves follow in submit.lua, work.lua, quarantine.lua,
-- sweep.lua and intake.lua.
--
-- KEYS[1] is the shard's prefix, P = "headrace:{NN}:". Every other key is made from it, so all share the hash tag's slot.
--
--   P job:<id>                    HASH    state, reason; epoch, released (last epoch given back); n (tokens committed), n0 (n at claim);
--                                         crash, exp; owner; cancel (reason, if asked for); lane, model, tenant, key, hash; prompt, cost;
--                                         arrival (us); accepted, started, ended, deadline (ms); withheld (1 until it is admitted);
--                                         cached (tokens of the prompt, if a worker has told)
--   P body:<id>                   STRING  the request; apart from the hash, as it is large and never changes
--   P log:<id>                    STREAM  <epoch>-<n>: field d, or the end marker: fields end, why, and cached if the job has it. Redis itself
--                                         refuses an id that is not above the last one, so no stale epoch could ever write behind a newer one
--   P q:<lane>:<#model>:<model>:<tenant>  ZSET  queued ids by arrival, which they keep when requeued
--   P vt:<lane>:<model>           ZSET    waiting tenants by virtual tokens served      (headrace/testing/queue/fairness.py)
--   P idle:<lane>:<model>         ZSET    tenants that do not wait but are ahead of all that do
--   P depth                       HASH    <lane>:<model> -> queued jobs, suspects among them
--   P suspects:<model>            ZSET    queued suspects, by ms since when: they are in no P q:…           (quarantine.lua)
--   P warden:<model>              HASH    worker whose turn it is to run them; until (ms) nobody else's turn begins
--   P lease, delay, viewer, ended ZSET    ids by ms: lease runs out, delay is over, viewer grace ends, job ended
--   P withheld                    ZSET    ids by ms: the reservation lapses                  (intake.lua)
--   P deadline                    ZSET    ids by ms, queued and delayed jobs only: the owner of a running job learns it from its verdicts
--   P held:<worker>               SET     ids leased to it
--   P claim:<#worker>:<worker>:<nonce>    LIST  id, epoch, ... of that claim
--   P idem:<#tenant>:<tenant>:<key>       STRING  id; lives exactly as long as the job
--   P gone:<id>                   STRING  tenant of a purged job
--   P jobs:<tenant>               ZSET    ids by arrival, without the lane `batch`: those are found by their batch
--   P deaths                      LIST    id, tenant, crash, exp, ... of dead jobs that no janitor has told yet
--   P outbox                      STREAM  id, tenant, state, why: one entry per ended job
--   P counters                    HASH    arrival (the last one); generation; the meter of all jobs: live, cost (of live jobs), what left
--                                         lately; ended:<state>[:<fault>], jobs that ended so
--   P tenant:<tenant>             HASH    the meter of its jobs, while any is live
--   P workers, reports            HASH, ZSET  status by worker; when it lapses (ms)          (shard 00 only)
--   P swept                       STRING  when a janitor last ended a round (ms)             (shard 00 only)
--
-- Lua 5.1 prints numbers with 14 digits when it concatenates: milliseconds fit, microseconds must stay arguments.

local TERMINAL = {done = true, failed = true, cancelled = true, expired = true, dead = true}

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

-- Bounds -------------------------------------------------------------------------------------------------------------------------------

-- A meter as in headrace/queues/meter.py.
local BUCKET_MS = 30000

local function read_meter(meter)
  local f = redis.call('HMGET', meter, 'live', 'cost', 'since', 'left', 'freed', 'left0', 'freed0', 'span0')
  for i = 1, 8 do f[i] = tonumber(f[i] or 0) end
  return {live = f[1], cost = f[2], since = f[3], left = f[4], freed = f[5], left0 = f[6], freed0 = f[7], span0 = f[8]}
end

local function write_meter(meter, m)
  redis.call('HSET', meter, 'live', m.live, 'cost', m.cost, 'since', m.since, 'left', m.left, 'freed', m.freed,
    'left0', m.left0, 'freed0', m.freed0, 'span0', m.span0)
end

local function begin(m, t, left, freed, span)
  m.since, m.left, m.freed, m.left0, m.freed0, m.span0 = t, 0, 0, left, freed, span
end

local function meter_enter(meter, m, cost, t)
  if m.live == 0 then begin(m, t, 0, 0, 0) end
  m.live, m.cost = m.live + 1, m.cost + cost
  write_meter(meter, m)
end

-- Returns how many jobs are still live.
local function meter_leave(meter, cost, t)
  local m = read_meter(meter)
  local age = t - m.since
  if age < 0 or age >= 2 * BUCKET_MS then
    begin(m, t, 0, 0, 0)
  elseif age >= BUCKET_MS then
    begin(m, t, m.left, m.freed, age)
  end
  m.left, m.freed, m.live, m.cost = m.left + 1, m.freed + cost, m.live - 1, m.cost - cost
  write_meter(meter, m)
  return m.live
end

-- {'full', bound, current, what left lately, in how many ms} if one more job of this cost would break a bound, else nil.
local function refusal(whose, m, cost, max_live, max_cost, t)
  local full = m.live >= max_live
  if not full and m.cost + cost <= max_cost then return nil end
  local age = math.max(0, t - m.since)
  local left, left0, span = full and m.left or m.freed, full and m.left0 or m.freed0, m.span0
  if age >= BUCKET_MS then left0, span = 0, 0 end
  if age >= 2 * BUCKET_MS then left = 0 end
  return {'full', whose .. (full and 'jobs' or 'cost'), full and m.live or m.cost, left0 + left, span + age}
end

-- Fairness -----------------------------------------------------------------------------------------------------------------------------

local function least(vt)
  return tonumber(redis.call('ZRANGE', vt, 0, 0, 'WITHSCORES')[2])
end

local function arrive(P, at)
  local vt, idle = P .. 'vt:' .. at.ward, P .. 'idle:' .. at.ward
  local own = tonumber(redis.call('ZSCORE', idle, at.tenant) or 0)
  redis.call('ZADD', vt, math.max(own, least(vt) or 0), at.tenant)
  redis.call('ZREM', idle, at.tenant)
end

local function leave(P, at)
  local vt, idle = P .. 'vt:' .. at.ward, P .. 'idle:' .. at.ward
  local own = redis.call('ZSCORE', vt, at.tenant)
  redis.call('ZREM', vt, at.tenant)
  local floor = least(vt)
  if not floor then
    redis.call('DEL', idle)
  else
    redis.call('ZADD', idle, own, at.tenant)
    redis.call('ZREMRANGEBYSCORE', idle, '-inf', floor)
  end
end

-- The queue ----------------------------------------------------------------------------------------------------------------------------

-- Every lost lease is a strike against its job, a worker's death many at once; progress wipes them out. From SUSPECT_STRIKES on it is a
-- suspect and waits apart. See headrace/queues/rules.py.
local STRIKES_PER_CRASH, SUSPECT_STRIKES = 8, 16

local function strikes(crashes, expiries)
  return STRIKES_PER_CRASH * crashes + expiries
end

local function place(P, id)
  local f = redis.call('HMGET', P .. 'job:' .. id, 'lane', 'model', 'tenant', 'arrival', 'deadline', 'crash', 'exp')
  local suspect = strikes(f[6], f[7]) >= SUSPECT_STRIKES
  return {
    lane = f[1], ward = f[1] .. ':' .. f[2], tenant = f[3], arrival = f[4], deadline = f[5], suspect = suspect,
    queue = suspect and P .. 'suspects:' .. f[2] or P .. 'q:' .. f[1] .. ':' .. pair(f[2], f[3]),
  }
end

local function enqueue(P, id, at)
  if not at.suspect and redis.call('ZCARD', at.queue) == 0 then arrive(P, at) end
  redis.call('ZADD', at.queue, at.suspect and now_ms() or at.arrival, id)
  redis.call('HINCRBY', P .. 'depth', at.ward, 1)
  redis.call('ZADD', P .. 'deadline', at.deadline, id)
  redis.call('HSET', P .. 'job:' .. id, 'state', 'queued')
  redis.call('PUBLISH', 'headrace:work', at.lane)
end

local function dequeue(P, id, at)
  redis.call('ZREM', at.queue, id)
  redis.call('HINCRBY', P .. 'depth', at.ward, -1)
  redis.call('ZREM', P .. 'deadline', id)
  if not at.suspect and redis.call('ZCARD', at.queue) == 0 then leave(P, at) end
end

-- Progress under the lease that ends now wipes out what the leases before it have left.
local function forgive(P, id)
  local f = redis.call('HMGET', P .. 'job:' .. id, 'n', 'n0')
  if f[1] ~= f[2] then redis.call('HSET', P .. 'job:' .. id, 'crash', 0, 'exp', 0) end
end

-- Takes a running job from its owner; the caller has moved the epoch on, or ends the job.
local function unlease(P, id)
  local owner = redis.call('HGET', P .. 'job:' .. id, 'owner')
  redis.call('HDEL', P .. 'job:' .. id, 'owner')
  redis.call('ZREM', P .. 'lease', id)
  redis.call('SREM', P .. 'held:' .. owner, id)
end

-- Leaves whichever set its state keeps it in.
local function detach(P, id)
  local state = redis.call('HGET', P .. 'job:' .. id, 'state')
  if state == 'running' then
    unlease(P, id)
  elseif state == 'queued' then
    dequeue(P, id, place(P, id))
  else
    redis.call('ZREM', P .. 'delay', id)
    redis.call('ZREM', P .. 'withheld', id)
    redis.call('ZREM', P .. 'deadline', id)
    redis.call('HDEL', P .. 'job:' .. id, 'withheld')
  end
end

-- A withheld job is stored as a delayed one that is in no `delay`: so an older text of these functions, which knows nothing of it, promotes
-- it never and takes it out of no lane when it ends. Its submitter is told that it is queued.
local function shown(state, withheld)
  return state == 'delayed' and withheld and 'queued' or state
end

local function is_withheld(P, id)
  local f = redis.call('HMGET', P .. 'job:' .. id, 'state', 'withheld')
  return f[1] == 'delayed' and f[2] ~= false
end

-- Its job counts no longer.
local function uncount(P, id, t)
  local f = redis.call('HMGET', P .. 'job:' .. id, 'cost', 'tenant')
  meter_leave(P .. 'counters', f[1], t)
  if meter_leave(P .. 'tenant:' .. f[2], f[1], t) <= 0 then redis.call('DEL', P .. 'tenant:' .. f[2]) end
end

-- By which a late repeat of the accept of a job that is erased now is known: for as long as ended jobs are kept, to its deadline at the least
-- (a log that nobody read for days may still hold it, and would have it run again), and never shorter than an earlier one.
local function leave_tombstone(P, id, tenant, retention)
  local key = P .. 'gone:' .. id
  local left = (redis.call('HGET', P .. 'job:' .. id, 'deadline') or 0) - now_ms()
  redis.call('SET', key, tenant, 'PX', string.format('%d', math.max(retention, left, redis.call('PTTL', key))))
end

-- The field of `counters` in which jobs that ended like this are counted: headrace/state.py says how a reason begins.
local FAULTS = { engine_error = true, resource_exhausted = true }

local function tally(state, why)
  if state ~= 'failed' then return 'ended:' .. state end
  local fault = string.match(why, '^([%l_]+): ')
  return 'ended:failed' .. (fault and FAULTS[fault] and ':' .. fault or '')
end

-- The one way into a terminal state: everything an ending entails, in one step.
local function terminate(P, id, state, why, t)
  local job = P .. 'job:' .. id
  detach(P, id)
  redis.call('ZREM', P .. 'viewer', id)
  redis.call('HSET', job, 'state', state, 'reason', why, 'ended', t)
  uncount(P, id, t)
  redis.call('HINCRBY', P .. 'counters', tally(state, why), 1)
  local f = redis.call('HMGET', job, 'epoch', 'n', 'tenant', 'cached')
  local marker = {'end', state, 'why', why}
  if f[4] then marker[5], marker[6] = 'cached', f[4] end
  redis.call('XADD', P .. 'log:' .. id, f[1] .. '-' .. (f[2] + 1), unpack(marker))
  redis.call('XADD', P .. 'outbox', '*', 'id', id, 'tenant', f[3], 'state', state, 'why', why)
  redis.call('ZADD', P .. 'ended', t, id)
  redis.call('PUBLISH', 'headrace:wake', id)
end

local function requeue(P, id, t, delay)
  detach(P, id)
  local at = place(P, id)
  if delay > 0 then
    redis.call('HSET', P .. 'job:' .. id, 'state', 'delayed')
    redis.call('ZADD', P .. 'delay', t + delay, id)
    redis.call('ZADD', P .. 'deadline', at.deadline, id)
  else
    enqueue(P, id, at)
  end
end

-- Whether the tenant may see the job: 'mine', 'gone' (purged) or 'missing'.
local function standing(P, tenant, id)
  local owner = redis.call('HGET', P .. 'job:' .. id, 'tenant')
  if owner then return owner == tenant and 'mine' or 'missing' end
  return redis.call('GET', P .. 'gone:' .. id) == tenant and 'gone' or 'missing'
end

-- Ends a job that waits; tells the owner of a running one. Returns its state.
local function cancel_job(P, id, why, t)
  local job = P .. 'job:' .. id
  local state = redis.call('HGET', job, 'state')
  if state == 'running' then
    redis.call('HSETNX', job, 'cancel', why)
    redis.call('ZREM', P .. 'viewer', id)
    redis.call('PUBLISH', 'headrace:work', id)
  elseif not TERMINAL[state] then
    terminate(P, id, 'cancelled', why, t)
    state = 'cancelled'
  end
  return state
end

-- Without allow-oom a function is refused once maxmemory is reached: new work must be, the end of old work must not.
local function register(name, callback, ...)
  redis.register_function{function_name = 'headrace_1_' .. name, callback = callback, flags = {...}}
end
