import { collect } from "../../api/collect";
import { count, t, time } from "../../i18n";
import { hrefOf } from "../../state/route";
import { Command, Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { useLoad } from "../../ui/load";
import { Gates } from "./Gates";
import { State } from "./Now";
import { say } from "./say";
import type { Improvement, Round } from "./types";
import { refusing } from "./words";

const LIVE_MS = 4000;
const MOST = 100;
const STAGES = ["collect", "train", "measure", "register", "serve", "canary"] as const;

/** The rounds from votes to adapters that were promoted or refused, by alias. */
export function Loop({ alias }: { alias: string | undefined }) {
  const load = (signal: AbortSignal) => collect<Improvement>("/v1/improvements", MOST, { query: { order: "asc" }, signal });
  const { data, error, reload } = useLoad(load, [], LIVE_MS);
  if (error !== null) return <Failure error={error} onRetry={reload} />;
  if (data === undefined) return <p role="status">{t("shell.loading")}</p>;
  const shown = data.data.filter((one) => alias === undefined || one.id === alias);
  if (shown.length === 0) {
    return (
      <Empty
        icon="rollouts"
        title={say("loop.none")}
        text={say("loop.none.text")}
        commands={["deepwell improve run smollm2@prod --model smollm2"]}
      />
    );
  }
  return (
    <div class="stack">
      {shown.map((one) => (
        <Rounds key={one.id} improvement={one} />
      ))}
    </div>
  );
}

function Rounds({ improvement }: { improvement: Improvement }) {
  const { id, up, down, consent, problem, rounds } = improvement;
  const votes = { up: count(up), down: count(down), consent: count(consent) };
  return (
    <section class="stack" aria-label={id}>
      <h2 class="rollouts-words">{id}</h2>
      <p>{say("loop.votes", votes)}</p>
      {problem !== null && <Failure error={new Error(problem)} />}
      {rounds.map((one) => (
        <RoundView key={`${one.number} ${one.model}`} round={one} />
      ))}
      {/^[\w.:@/-]+$/.test(id) && (
        <>
          <p class="muted small">{say("loop.next")}</p>
          <Command text={`deepwell improve run ${id}`} />
        </>
      )}
    </section>
  );
}

function RoundView({ round }: { round: Round }) {
  const { gates, version } = round;
  return (
    <article class="card rollouts-round" aria-label={say("loop.round", { number: count(round.number) })}>
      <header class="row">
        <h3 class="grow">
          {say("loop.round", { number: count(round.number) })}
          {" · "}
          {version === null ? round.model : <a href={hrefOf("rollouts", "versions", version)}>{round.model}</a>}
        </h3>
        {round.outcome === null ? <span class="badge accent">{say("loop.running")}</span> : <State name={round.outcome} />}
      </header>
      {round.at !== null && <p class="muted small">{time(round.at)}</p>}
      {round.outcome === null && <Stages round={round} />}
      {round.votes.train !== undefined && (
        <p class="muted">
          {say("loop.made", {
            train: count(round.votes.train),
            held_out: count(round.votes.held_out ?? 0),
            users: count(round.votes.users ?? 0),
          })}
        </p>
      )}
      {round.outcome !== null && <p>{whyOf(round)}</p>}
      {gates !== null && (
        <details open={round.outcome === "refused" || undefined}>
          <summary>{say("loop.gates", { model: round.model })}</summary>
          <Gates report={gates} label={say("loop.gates", { model: round.model })} />
        </details>
      )}
    </article>
  );
}

function whyOf(round: Round): string {
  if (round.outcome === "refused" && round.gates !== null) {
    return say("outcome.refused", { gates: refusing(round.gates.gates) });
  }
  if (round.reason !== "") return round.reason;
  return round.outcome === "promoted" ? say("outcome.promoted") : "";
}

/** The stages of a round in order, with the one that comes next marked. */
function Stages({ round }: { round: Round }) {
  const at = STAGES.findIndex((one) => one === round.stage);
  return (
    <ol class="rollouts-stages" aria-label={say("loop.stages", { number: count(round.number) })}>
      {STAGES.map((name, place) => (
        <li key={name} class={place < at ? "done" : undefined} aria-current={place === at ? "step" : undefined}>
          {say(`stage.${name}`)}
        </li>
      ))}
    </ol>
  );
}
