import { useState } from "preact/hooks";
import { api, apiBlob } from "../../api/client";
import { count, percent, texts } from "../../i18n";
import { hrefOf } from "../../state/route";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { saveAs } from "../../ui/files/save";
import { Icon } from "../../ui/Icon";
import { type Column, Table } from "../../ui/Table";
import { toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { type Agreement, type Interval, type Outcome, pathOf, type RaterVotes } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);

/** The results of a study, which name its models: shown when they are asked for. */
export function Results({ id }: { id: string }) {
  const [shown, setShown] = useState(false);
  return (
    <div class="page ratings">
      <div class="page-head">
        <a class="button quiet square" href={hrefOf("ratings", id)} aria-label={say("back.study")} title={say("back.study")}>
          <Icon name="left" />
        </a>
        <h1>{say("results")}</h1>
      </div>
      {shown ? (
        <Found id={id} />
      ) : (
        <Empty icon="ratings" title={say("blind.title")} text={say("blind.text")}>
          <Button kind="primary" onClick={() => setShown(true)}>
            {say("blind.show")}
          </Button>
        </Empty>
      )}
    </div>
  );
}

function Found({ id }: { id: string }) {
  const { data, error, reload } = useLoad((signal) => api<Outcome>(pathOf(id, "results"), { signal }), [id]);
  const save = async () => {
    try {
      saveAs(await apiBlob(pathOf(id, "export")), "votes.jsonl");
    } catch (failure) {
      toastError(failure);
    }
  };
  if (error !== null) return <Failure error={error} onRetry={reload} />;
  if (data === undefined) return null;
  if (data.win_rate === null) return <Empty icon="ratings" title={say("none.title")} text={say("none.text")} />;
  return (
    <>
      <p class="ratings-win">
        {say("win", { second: data.second, first: data.first })}{" "}
        <b>{percent(data.win_rate.value)}</b> ({between(data.win_rate, percent)})
      </p>
      <p class="muted">
        {say("win.note", { rated: count(data.rated), pairs: count(data.pairs) })} {say(verdictOf(data.win_rate))}
      </p>
      <Table label={say("raters")} columns={raterColumns(data)} rows={data.raters} id={(one) => one.rater} />
      {data.agreements.length > 0 ? (
        <>
          <h2>{say("agreement")}</h2>
          <Table
            label={say("agreement")}
            columns={agreementColumns()}
            rows={data.agreements}
            id={(one) => one.raters.join("\n")}
          />
          <p class="muted small">{say("kappa.note")}</p>
        </>
      ) : (
        <p class="muted">{say("agreement.none")}</p>
      )}
      <Button icon="download" onClick={() => void save()}>
        {say("export")}
      </Button>
    </>
  );
}

function raterColumns(data: Outcome): Column<RaterVotes>[] {
  return [
    { name: "rater", title: say("column.rater"), cell: (one) => one.rater },
    { name: "first", title: data.first, cell: (one) => count(one.first), number: true },
    { name: "second", title: data.second, cell: (one) => count(one.second), number: true },
    { name: "tie", title: say("choice.tie"), cell: (one) => count(one.tie), number: true },
  ];
}

function agreementColumns(): Column<Agreement>[] {
  return [
    { name: "raters", title: say("column.raters"), cell: (one) => one.raters.join(" · ") },
    { name: "pairs", title: say("column.both"), cell: (one) => count(one.pairs), number: true },
    { name: "share", title: say("column.share"), cell: (one) => withInterval(one.agreement, percent), number: true },
    {
      name: "kappa",
      title: say("column.kappa"),
      cell: (one) => (one.kappa === null ? "–" : withInterval(one.kappa, (value) => value.toFixed(2))),
      number: true,
    },
  ];
}

function withInterval(found: Interval, shown: (value: number) => string): string {
  return `${shown(found.value)} (${between(found, shown)})`;
}

function between(found: Interval, shown: (value: number) => string): string {
  return `${shown(found.low)} – ${shown(found.high)}`;
}

function verdictOf(rate: Interval): "win.better" | "win.worse" | "win.open" {
  return rate.low > 0.5 ? "win.better" : rate.high < 0.5 ? "win.worse" : "win.open";
}
