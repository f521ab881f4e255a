import type { en } from "./en";

export const zh: { [K in keyof typeof en]: string } = {
  lead: "在此之前，可以在终端查看本机能运行的模型。",
};
