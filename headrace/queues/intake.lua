-- Acceptance in two steps, with a log of requests between them; see functions.lua, and Intake in headrace/ports.py.

-- a submission and reservation_ms -> {answer, id, 1 if it is withheld}, or what refusal says
local function reserve(K, A)
  local P, us, id = K[1], now_us(), A[1]
  local there = known(P, A)
  if there then return {there[1], there[2], is_withheld(P, there[2]) and 1 or 0} end
  local t = math.floor(us / 1000)
  local refused = store(P, A, t, us, true)
  if refused then return refused end
  redis.call('HSET', P .. 'job:' .. id, 'state', 'delayed', 'withheld', 1)
  redis.call('ZADD', P .. 'withheld', t + A[18], id)
  redis.call('ZADD', P .. 'deadline', t + A[11], id)
  return {'new', id, 1}
end

-- a submission -> {answer, id}, or what refusal says. By its id first: once that was promised, another job under its key is not this one.
local function admit(K, A)
  local P, us, id = K[1], now_us(), A[1]
  local t = math.floor(us / 1000)
  if release_withheld(P, A, id, t) then return {'new', id} end
  if redis.call('EXISTS', P .. 'job:' .. id, P .. 'gone:' .. id) > 0 then return {'replay', id} end
  local there = known(P, A)
  if there then return there end
  local refused = store(P, A, t, us, false)
  if refused then return refused end
  let_in(P, A, id, t)
  return {'new', id}
end

-- Ends a withheld job without a trace: nobody was promised anything.
local function unreserve(P, id, t)
  uncount(P, id, t)
  detach(P, id)
  erase(P, id)
end

-- tenant id retention -> 1 if it is not there any more, with a tombstone that tells a later admit so
local function withdraw(K, A)
  local P, id = K[1], A[2]
  local withheld = is_withheld(P, id)
  if not withheld and redis.call('EXISTS', P .. 'job:' .. id) == 1 then return 0 end
  leave_tombstone(P, id, A[1], A[3])
  if withheld then unreserve(P, id, now_ms()) end
  return 1
end

-- limit -> count
local function forget_lapsed(K, A)
  local P, t = K[1], now_ms()
  return sweep(P, 'withheld', t, A[1], function(id)
    -- Where an older text of these functions has ended the job, only this entry is left of it.
    if is_withheld(P, id) then unreserve(P, id, t) else redis.call('ZREM', P .. 'withheld', id) end
  end)
end

-- -> generation or nil
local function generation(K, A)
  return redis.call('HGET', K[1] .. 'counters', 'generation')
end

-- generation -> 1
local function begin_generation(K, A)
  local now = redis.call('HGET', K[1] .. 'counters', 'generation') or 0
  if tonumber(A[1]) > tonumber(now) then redis.call('HSET', K[1] .. 'counters', 'generation', A[1]) end
  return 1
end

register('reserve', reserve)
register('admit', admit)
register('withdraw', withdraw, 'allow-oom')
register('forget_lapsed', forget_lapsed, 'allow-oom')
register('generation', generation, 'no-writes')
register('begin_generation', begin_generation)
