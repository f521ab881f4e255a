import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { collect } from "../../api/collect";
import { count, t, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Command, Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import { say } from "./say";
import type { Entry, Verification } from "./types";
import { authorOf, wordsOf } from "./words";

const STEP = 50;

/** Everything that happened to the models behind aliases, in words, the newest first, and the check of the chain. */
export function Log({ alias }: { alias: string | undefined }) {
  const [limit, setLimit] = useState(STEP);
  const load = (signal: AbortSignal) => collect<Entry>("/v1/registry/log", limit, { query: { alias }, signal });
  const { data, error, loading, reload } = useLoad(load, [alias, limit]);
  if (error !== null) return <Failure error={error} onRetry={reload} />;
  if (data === undefined) return <p role="status">{t("shell.loading")}</p>;
  if (data.data.length === 0) {
    return (
      <Empty
        icon="list"
        title={say("log.none")}
        text={say("log.none.text")}
        commands={["deepwell models alias set smollm2@prod smollm2"]}
      />
    );
  }
  return (
    <>
      <Verify />
      <Table label={say("tab.log")} columns={columns()} rows={data.data} id={(one) => one.id} />
      {data.more && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
            {t("action.more")}
          </Button>
        </div>
      )}
    </>
  );
}

function columns(): Column<Entry>[] {
  return [
    { name: "number", title: "#", cell: (one) => count(one.sequence), number: true, wide: true },
    { name: "time", title: say("column.time"), cell: (one) => <span class="rollouts-time">{time(one.at)}</span> },
    { name: "words", title: say("column.words"), cell: (one) => <span class="rollouts-words">{wordsOf(one)}</span> },
    { name: "by", title: say("column.by"), cell: (one) => authorOf(one.by), wide: true },
  ];
}

function Verify() {
  const [busy, setBusy] = useState(false);
  const [told, setTold] = useState<Verification | null>(null);
  const [error, setError] = useState<unknown>(null);
  const verify = async () => {
    setBusy(true);
    setError(null);
    try {
      setTold(await api<Verification>("/v1/registry/verify", { method: "POST" }));
    } catch (failure) {
      setError(failure);
      setTold(null);
    }
    setBusy(false);
  };
  return (
    <div class="stack rollouts-verify">
      <div class="row">
        <Button icon="check" busy={busy} onClick={() => void verify()}>
          {say("verify")}
        </Button>
        <span role="status" class="rollouts-words grow">
          {told?.holds && (
            <span class="rollouts-holds">
              {told.entries === 0 ? say("verify.empty") : say("verify.holds", { count: count(told.entries), head: told.head })}
            </span>
          )}
        </span>
      </div>
      {error !== null && <Failure error={error} />}
      {told && !told.holds && (
        <div class="failure" role="alert">
          <div>
            <p>
              <b>{say("verify.broken")}</b>
            </p>
            {told.problems.slice(0, 10).map((one, place) => (
              <p key={place}>{one}</p>
            ))}
            <p class="muted">{say("verify.fix")}</p>
            <Command text="deepwell models log" />
          </div>
        </div>
      )}
    </div>
  );
}
