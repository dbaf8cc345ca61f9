-- wrk's requests of `POST /place`: one workload of mixed ranks and rates, sent again and again.
--
--   wrk -t1 -c1 -d20s --latency -s tests/benchmarks/place.lua http://127.0.0.1:8080
--   wrk -t1 -c1 -d20s --latency -s tests/benchmarks/place.lua http://127.0.0.1:8080 -- 10000
--
-- What follows `--` is the number of adapters. With keys: -H 'Authorization: Bearer lm_...'. An answer that is
-- not 200 is counted under "Non-2xx or 3xx responses": with one, the figures are not those of placements.

local RANKS = { 8, 16, 32 }
local RATES_RPS = { 0.4, 0.1, 0.025 }
local ADAPTER = '{"id":"adapter-%d","rank":%d,"rate_rps":%g,"input_tokens_mean":223,"output_tokens_mean":197}'
local WORKLOAD = '{"base_model":"llama-3.1-8b-instruct","gpu_type":"h100-64gb","adapters":[%s]}'

function init(args)
  local num_adapters = tonumber(args[1] or "1000")
  math.randomseed(num_adapters)
  local adapters = {}
  for row = 1, num_adapters do
    local rank, rate_rps = RANKS[math.random(#RANKS)], RATES_RPS[math.random(#RATES_RPS)]
    adapters[row] = ADAPTER:format(row - 1, rank, rate_rps)
  end
  wrk.method = "POST"
  wrk.path = "/place"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = WORKLOAD:format(table.concat(adapters, ","))
  placement = wrk.format()
end

function request()
  return placement
end
