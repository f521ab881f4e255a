import { useSignalEffect } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { t } from "./i18n";
import { LOADERS, type PageProps } from "./pages";
import { type PageName, route } from "./state/route";
import { Boundary } from "./ui/Boundary";
import { Button } from "./ui/Button";
import { Failure } from "./ui/Failure";
import { KeyDialog } from "./ui/KeyDialog";
import { Shell } from "./ui/Shell";
import { Toasts } from "./ui/Toast";

const loaded = new Map<PageName, ComponentType<PageProps>>();

/** The whole console: the shell, the page of the address, and what may stand above it. */
export function App() {
  const { page, rest } = route.value;
  useSignalEffect(() => {
    document.title = `${t(`nav.${route.value.page}`)} · Deepwell`;
  });
  return (
    <>
      <Shell page={page}>
        <Boundary key={page}>
          <Lazy page={page} rest={rest} />
        </Boundary>
      </Shell>
      <KeyDialog />
      <Toasts />
    </>
  );
}

function Lazy({ page, rest }: { page: PageName; rest: readonly string[] }) {
  const [, setRound] = useState(0);
  const [error, setError] = useState<unknown>(null);
  const current = useRef(page);
  current.current = page;
  const Page = loaded.get(page);
  useEffect(() => {
    setError(null);
    if (loaded.has(page)) return;
    LOADERS[page]().then(
      (module) => {
        loaded.set(page, module.default);
        setRound((round) => round + 1);
      },
      (problem: unknown) => {
        if (current.current === page) setError(problem);
      },
    );
  }, [page]);
  if (Page) return <Page rest={rest} />;
  if (error) {
    return (
      <div class="page">
        <h1>{t("shell.broken")}</h1>
        <Failure error={error} />
        <Button onClick={() => location.reload()}>{t("shell.reload")}</Button>
      </div>
    );
  }
  return (
    <p class="page muted" role="status">
      {t("shell.loading")}
    </p>
  );
}
