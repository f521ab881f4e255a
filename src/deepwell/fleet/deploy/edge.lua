-- The edge's filter: strips headers that only the edge may write, and draws a request's user into one of 1000 buckets, as the
-- servers do (`deepwell.storage.registry.split`): by the SHA-256 of roll-out, tenant and user. `mesh.bucket_of` is the same in
-- Python. Roll-out and owners of keys come with the routes, so that they change without a restart.
local bit = require("bit")
local band, bnot, bxor, rshift, ror, tobit = bit.band, bit.bnot, bit.bxor, bit.rshift, bit.ror, bit.tobit

-- The constants of SHA-256: the first bits of roots of the first primes (FIPS 180-4).
local rounds, starts = {}, {}
do
  local function fraction(root) return tobit(math.floor((root - math.floor(root)) * 4294967296)) end
  local number = 2
  while #rounds < 64 do
    local prime = true
    for divisor = 2, math.floor(math.sqrt(number)) do
      if number % divisor == 0 then prime = false break end
    end
    if prime then
      if #starts < 8 then starts[#starts + 1] = fraction(math.sqrt(number)) end
      rounds[#rounds + 1] = fraction(number ^ (1 / 3))
    end
    number = number + 1
  end
end

local function sha256(text)
  local length = #text
  text = text .. "\128" .. string.rep("\0", (55 - length) % 64)
  local bits = length * 8
  for place = 7, 0, -1 do text = text .. string.char(math.floor(bits / 256 ^ place) % 256) end
  local sums, words = {unpack(starts)}, {}
  for block = 1, #text, 64 do
    for number = 1, 16 do
      local a, b, c, d = text:byte(block + 4 * number - 4, block + 4 * number - 1)
      words[number] = tobit(a * 16777216 + b * 65536 + c * 256 + d)
    end
    for number = 17, 64 do
      local x, y = words[number - 15], words[number - 2]
      local low, high = bxor(ror(x, 7), ror(x, 18), rshift(x, 3)), bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
      words[number] = tobit(words[number - 16] + low + words[number - 7] + high)
    end
    local a, b, c, d, e, f, g, h = unpack(sums)
    for number = 1, 64 do
      local first = tobit(h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(band(e, f), band(bnot(e), g))
        + rounds[number] + words[number])
      local second = tobit(bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + bxor(band(a, b), band(a, c), band(b, c)))
      a, b, c, d, e, f, g, h = tobit(first + second), a, b, c, tobit(d + first), e, f, g
    end
    for number, value in ipairs({a, b, c, d, e, f, g, h}) do sums[number] = tobit(sums[number] + value) end
  end
  return sums
end

local function hex(sums)
  local text = ""
  for number = 1, 8 do text = text .. bit.tohex(sums[number]) end
  return text
end

-- Length in characters, as Python counts it.
local function characters(text)
  local _, following = text:gsub("[\128-\191]", "")
  return #text - following
end

local function bucket(rollout, tenant, identity)
  local text = characters(rollout) .. ":" .. rollout .. characters(tenant) .. ":" .. tenant .. identity
  local sums = sha256(text)
  -- The highest 53 bits are all that a number holds; a bucket needs ten.
  return math.floor(((sums[1] % 4294967296) + (sums[2] % 4294967296) / 4294967296) * 1000 / 4294967296)
end

-- Returns the end of the string that begins behind `place`, the place of its opening quote.
local function closing(text, place)
  while true do
    local quote = text:find('"', place + 1, true)
    if not quote then return nil end
    local slashes = quote - 1
    while slashes > place and text:byte(slashes) == 92 do slashes = slashes - 1 end
    if (quote - 1 - slashes) % 2 == 0 then return quote end
    place = quote
  end
end

local function utf8(code)
  if code < 128 then return string.char(code) end
  local floor = math.floor
  if code < 2048 then return string.char(192 + floor(code / 64), 128 + code % 64) end
  if code < 65536 then
    return string.char(224 + floor(code / 4096), 128 + floor(code / 64) % 64, 128 + code % 64)
  end
  return string.char(240 + floor(code / 262144), 128 + floor(code / 4096) % 64, 128 + floor(code / 64) % 64, 128 + code % 64)
end

local plain = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

-- Returns what a string of JSON means: clients write the same name with escapes and without.
local function meaning(text)
  local parts, place = {}, 1
  while true do
    local at = text:find("\\", place, true)
    parts[#parts + 1] = text:sub(place, at and at - 1)
    if not at then return table.concat(parts) end
    local sign = text:sub(at + 1, at + 1)
    place = at + 2
    if sign == "u" then
      local code = tonumber(text:sub(place, place + 3), 16) or 65533
      place = place + 4
      local low = code >= 55296 and code < 56320 and tonumber(text:match("^\\u(%x%x%x%x)", place) or "", 16)
      if low and low >= 56320 and low < 57344 then
        code = 65536 + (code - 55296) * 1024 + low - 56320
        place = place + 6
      end
      sign = utf8(code)
    else
      sign = plain[sign] or sign
    end
    parts[#parts + 1] = sign
  end
end

-- Returns the user that a body names: at its top, or in `metadata` there. What lies deeper belongs to somebody's messages.
local function user_of(text)
  local found, depth, place, metadata = {}, 0, 1, false
  while true do
    local at = text:find('["{}%[%]]', place)
    if not at then break end
    local sign = text:sub(at, at)
    if sign == '"' then
      local stop = closing(text, at)
      if not stop then break end
      local name = text:sub(at + 1, stop - 1)
      local wanted = depth == 1 and (name == "user" or name == "safety_identifier")
        or depth == 2 and metadata and name == "user_id"
      local opened = wanted and text:match('^%s*:%s*()"', stop + 1)
      local last = opened and closing(text, opened)
      if last then
        found[name] = meaning(text:sub(opened + 1, last - 1))
        stop = last
      elseif depth == 1 then
        metadata = name == "metadata" and text:find("^%s*:%s*{", stop + 1) ~= nil
      end
      place = stop + 1
    else
      depth = depth + ((sign == "{" or sign == "[") and 1 or -1)
      place = at + 1
    end
  end
  return found.safety_identifier or found.user or found.user_id or ""
end

-- Returns the tenant and the identity of a request, as the servers have them; empty: nobody is known.
local function person(told, key, user)
  local tenant, id = "local", key ~= "" and hex(sha256(key)) or ""
  if told.owned then
    tenant, id = (id ~= "" and told.owner or ""):match("^([^|]*)|(.*)$")
    if not tenant then return "", "" end
  end
  if user ~= "" then return tenant, "user:" .. user end
  return tenant, id ~= "" and "key:" .. id or ""
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local preview = headers:get("x-deepwell-release") == "candidate"
  local strange = {}
  for name, _ in pairs(headers) do
    if name:sub(1, 11) == "x-deepwell-" or name:sub(1, 8) == "x-tenant" then strange[name] = true end
  end
  for name, _ in pairs(strange) do headers:remove(name) end
  if preview then headers:add("x-deepwell-release", "candidate") end
  local key = (headers:get("authorization") or ""):match("^[Bb]earer +(.+)$") or headers:get("x-api-key") or ""
  local metadata = handle:metadata()
  local told = {rollout = metadata:get("rollout") or "", owned = metadata:get("owned")}
  if told.owned and key ~= "" then told.owner = metadata:get(hex(sha256(key))) end
  local user = ""
  local kind = headers:get("content-type") or ""
  if headers:get(":method") == "POST" and kind:sub(1, 16) == "application/json" then
    local body = handle:body()
    if body and body:length() > 0 then user = user_of(body:getBytes(0, body:length())) end
  end
  local tenant, identity = person(told, key, user)
  if identity ~= "" then
    -- Taken anew: what was taken before the body came is not valid any more.
    handle:headers():add("x-deepwell-bucket", tostring(bucket(told.rollout, tenant, identity)))
  end
  -- The route was chosen by what came from outside.
  handle:clearRouteCache()
end
