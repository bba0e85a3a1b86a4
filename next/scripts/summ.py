import json,numpy as np,sys
def interval(num,den,groups,reps=2000):
    r=np.random.default_rng(0); num,den=np.array(num,float),np.array(den,float); out=[]
    for by in (np.arange(len(num)),np.unique(groups,return_inverse=True)[1]):
        n=by.max()+1; A=np.bincount(by,num,n); B=np.bincount(by,den,n); i=r.integers(0,n,(reps,n)); v=A[i].sum(1)/B[i].sum(1); out.append('%.1f to %.1f'%tuple(100*np.quantile(v,[.025,.975])))
    return '%.1f (%s; over voices %s)'%(100*num.sum()/den.sum(),*out)
for f in sys.argv[1:]:
    rows=[json.loads(l) for l in open(f)]; g=[r['voice'] for r in rows]
    print(f,'n',len(rows),'WER',interval([r['edits'] for r in rows],[r['words'] for r in rows],g),'right',interval([r['right'] for r in rows],[1]*len(rows),g),'own %.3f others %.3f'%(np.mean([r['own'] for r in rows]),np.mean([r['others'] for r in rows])),'incomplete',sum(not r['complete'] for r in rows))
